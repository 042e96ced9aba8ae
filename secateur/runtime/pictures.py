"""How pictures look and are written: one palette for figures and pages, one style for `matplotlib.rc_context`.

Okabe & Ito's colours can be told apart by people with any common colour blindness, on light and on dark ground.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
SKY, RED, YELLOW = "#56b4e9", "#d55e00", "#f0e442"
MODEL_COLOURS = {"base": BLUE, "pruned": GREEN, "control": ORANGE}
SPARE_COLOURS = (PURPLE, SKY, RED, YELLOW)
PLOT_STYLE = {
    "font.size": 9,
    "text.parse_math": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
_DPI = 150


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """Model → colour: fixed for the usual names, spare ones in turn for the others."""
    spare = [name for name in dict.fromkeys(names) if name not in MODEL_COLOURS]
    others = {name: SPARE_COLOURS[index % len(SPARE_COLOURS)] for index, name in enumerate(spare)}
    return {name: MODEL_COLOURS.get(name) or others[name] for name in names}


def colour_of(model: str, models: Sequence[str]) -> str:
    """The colour of one of `models`."""
    return model_colours(models)[model]


def save_png(figure: "Figure", path: Path) -> None:
    """Replace a picture atomically."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(image.getvalue())
    temporary.replace(path)
