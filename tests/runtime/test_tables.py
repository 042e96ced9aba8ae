"""Plain tables: what stands in a CSV file, and how wide a table may be where nobody looks."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from secateur.runtime import console as module
from secateur.runtime.console import WIDTH, plain_table, print_table, wide_console, write_csv


def test_a_csv_has_every_key_once_in_the_order_of_their_first_appearance(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"a": 1, "b": None}, {"c": 'x, "y"', "a": 2.5}])
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert list(lines[0]) == ["a", "b", "c"]
    assert [line["a"] for line in lines] == ["1", "2.5"] and lines[1]["c"] == 'x, "y"' and lines[0]["c"] == ""


def test_a_log_file_has_room_for_more_than_it_reports() -> None:
    assert wide_console().width >= WIDTH and wide_console(200).width >= 200


@pytest.mark.parametrize(("terminal", "width"), [(False, WIDTH), (True, 40)])
def test_a_log_file_gets_the_full_width_and_a_narrow_terminal_its_own(capsys, monkeypatch, terminal, width) -> None:
    narrow = Console(width=40, force_terminal=terminal, color_system=None, highlight=False)
    monkeypatch.setattr(module, "console", narrow)
    table = plain_table("t", ["name", *"abcdefgh"])
    table.add_row("x" * 20, *["12,345.6"] * 8)
    print_table(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width
    assert table.columns[0].justify == "left" and {column.justify for column in table.columns[1:]} == {"right"}


def test_a_text_is_no_formula_and_a_number_stays_one(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"name": "=1+1", "other": "@x", "number": -3, "plain": "a=1"}])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as handle:
        assert list(csv.DictReader(handle)) == [{"name": "'=1+1", "other": "'@x", "number": "-3", "plain": "a=1"}]
