"""Tables and pictures: what a file holds, and that a failure leaves the old one."""

import csv
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from secateur.runtime.pictures import model_colours, save_png
from secateur.runtime.tables import WIDTH, wide_console, write_csv


def test_a_csv_has_every_key_once_in_the_order_of_their_first_appearance(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"a": 1, "b": None}, {"c": 'x, "y"', "a": 2.5}])
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert list(lines[0]) == ["a", "b", "c"]
    assert [line["a"] for line in lines] == ["1", "2.5"] and lines[1]["c"] == 'x, "y"' and lines[0]["c"] == ""


def test_a_log_file_has_room_for_more_than_it_reports() -> None:
    assert wide_console().width >= WIDTH and wide_console(200).width >= 200


def test_models_of_one_picture_differ_and_the_usual_ones_keep_their_colour() -> None:
    names = ["mine", "base", "yours", "pruned", "control"]
    colours = model_colours(names)
    assert list(colours) == names and len(set(colours.values())) == len(names)
    assert colours["base"] == model_colours(["base"])["base"]


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "p.png"
    save_png(Figure(), path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")
    broken = Figure()
    broken.text(0, 0, "$\\nocommand{$")
    with pytest.raises(ValueError, match="nocommand"):
        save_png(broken, path)
    assert path.read_bytes() == before and [one.name for one in path.parent.iterdir()] == ["p.png"]
