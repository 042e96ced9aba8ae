"""The palette, and pictures that appear at once or not at all."""

from matplotlib.figure import Figure

from secateur.runtime.pictures import MODEL_COLOURS, SPARE_COLOURS, colour_of, model_colours, save_png


def test_models_have_colours_of_their_own_whatever_stands_beside_them() -> None:
    names = ["mine", "base", "other", "pruned", "third"]
    colours = model_colours(names)
    assert len(set(colours.values())) == len(names)
    assert {name: colours[name] for name in ("base", "pruned")}.items() <= MODEL_COLOURS.items()
    assert [colours[name] for name in ("mine", "other", "third")] == list(SPARE_COLOURS[:3])
    assert [colour_of(name, names) for name in names] == list(colours.values())
    assert model_colours([*names, "mine"]) == colours


def test_a_picture_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path) -> None:
    path = tmp_path / "new" / "p.png"
    for size in ((1, 1), (2, 1)):
        save_png(Figure(figsize=size), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [one.name for one in path.parent.iterdir()] == ["p.png"]
