"""The palette, and pictures that appear at once or not at all."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from secateur.runtime.pictures import model_colours, save_png


def test_models_of_one_picture_differ_and_the_usual_ones_keep_their_colour() -> None:
    names = ["mine", "base", "yours", "pruned", "control"]
    colours = model_colours(names)
    assert list(colours) == names and len(set(colours.values())) == len(names)
    assert colours["base"] == model_colours(["base"])["base"]
    assert model_colours([*names, "mine"]) == colours


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
