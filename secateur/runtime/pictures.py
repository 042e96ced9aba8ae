"""Pictures: how they look, which colour a model has in all of them, and how they are written."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (Path(__file__).parent / "colours.css").read_text(encoding="utf-8")
"""What pages in a browser are coloured with: variables of CSS, for light and for dark."""
PLOT_STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # names come from outside: "$" is a dollar
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
"""For `matplotlib.rc_context`."""
# Okabe & Ito: told apart by people with any common colour blindness, on light and on dark ground.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
SKY, RED, YELLOW = "#56b4e9", "#d55e00", "#f0e442"
_OF_MODELS = {"base": BLUE, "pruned": GREEN, "control": ORANGE}
_SPARE = (PURPLE, SKY, RED, YELLOW)


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """Model → its colour: fixed for the usual names, further ones in turn for the others.

    >>> model_colours(["base", "mine"])
    {'base': '#0072b2', 'mine': '#cc79a7'}
    """
    others = [name for name in dict.fromkeys(names) if name not in _OF_MODELS]
    spare = {name: _SPARE[place % len(_SPARE)] for place, name in enumerate(others)}
    return {name: (_OF_MODELS | spare)[name] for name in names}


def save_png(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Replace a picture atomically."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(image.getvalue())
    temporary.replace(path)
