"""Plain tables: what stands in a CSV file, and how wide a table may be where nobody looks."""

import csv
import io

import pytest
from rich.console import Console

from secateur.runtime import tables
from secateur.runtime.tables import WIDTH, plain_table, print_table, write_csv


def test_a_csv_has_every_column_in_the_order_of_its_first_appearance(tmp_path) -> None:
    write_csv(tmp_path / "t.csv", [{"b": 1, "a": "x,y"}, {"c": None, "a": 0.5}])
    lines = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"))))
    assert list(lines[0]) == ["b", "a", "c"]
    assert [line["a"] for line in lines] == ["x,y", "0.5"] and lines[1]["b"] == lines[1]["c"] == ""


@pytest.mark.parametrize(("terminal", "width"), [(False, WIDTH), (True, 40)])
def test_a_log_file_gets_the_full_width_and_a_narrow_terminal_its_own(capsys, monkeypatch, terminal, width) -> None:
    narrow = Console(width=40, force_terminal=terminal, color_system=None, highlight=False)
    monkeypatch.setattr(tables, "console", narrow)
    table = plain_table("t", ["name", *"abcdefgh"])
    table.add_row("x" * 20, *["12,345.6"] * 8)
    print_table(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width
    assert table.columns[0].justify == "left" and {column.justify for column in table.columns[1:]} == {"right"}
