"""TensorBoard's event files: those of training go on where a restart goes on, publications replace their folder."""

import html
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from secateur.runtime.console import CsvValue, say
from secateur.runtime.tracking import Publication, check_services

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"  # inside the folder of the run
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
_OUR_STEPS = "TENSORBOARD_LOGGING_DIR"  # where the Trainer writes


def name_tensorboard_run(run_folder: Path, name: str, resumed_at: int) -> None:
    """Make the Trainer write the event files of `name` to `<run_folder>/tensorboard/<name>`.

    A training that goes on from step `resumed_at` is one curve with what it did before.
    """
    folder = run_folder / FOLDER / name
    os.environ[_OUR_STEPS] = str(folder)
    forget_after(folder, resumed_at)


def forget_after(folder: Path, resumed_at: int) -> None:
    """Tell readers of the event files in `folder`, if any, to forget what was logged after step `resumed_at`: a
    training that goes on from there logs it again."""
    from torch.utils.tensorboard import SummaryWriter

    if folder.is_dir():
        SummaryWriter(str(folder), purge_step=resumed_at + 1).close()


def write_tensorboard(folder: Path, contents: Sequence[Publication], step: str) -> None:
    """Replace `folder` by event files of `contents`; each stands at the step that its number `step` names.

    Numbers become scalars, tables and words text, pictures images. A failure is said and ends nothing. Raises
    `InputError` where TensorBoard is not installed.
    """
    check_services("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    fresh = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        with SummaryWriter(str(fresh)) as writer:
            for content in contents:
                _write(writer, content, step)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except OSError as error:
        say(f"TensorBoard: {escape(str(folder))} was not written ({escape(str(error))})")


def _write(writer: "SummaryWriter", content: Publication, step: str) -> None:
    from matplotlib.image import imread

    for numbers in (*content.curve, content.numbers):
        for name, value in numbers.items():
            if name != step:
                writer.add_scalar(name, value, int(numbers[step]))
    at = int(content.numbers[step])
    for name, (columns, rows) in content.tables.items():
        writer.add_text(name, markdown_table(columns, rows), at)
    for name, value in content.summary.items():
        if isinstance(value, float):
            writer.add_scalar(name, value, at)
        else:
            writer.add_text(name, _plain(value), at)
    for name, path in content.pictures.items():
        writer.add_image(name, imread(path)[..., :3], at, dataformats="HWC")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[CsvValue]]) -> str:
    """A table for TensorBoard's text page, every cell as plain text.

    >>> print(markdown_table(["name", "share"], [["<b>*a*", 0.25]]))
    | name | share |
    | --- | --- |
    | &lt;b&gt;\\*a\\* | 0.25 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[cell if row is lines[1] else _plain(cell) for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _plain(value: CsvValue) -> str:
    """A value as Markdown that shows it as it is, in one line."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = " ".join(text.encode(errors="replace").decode().split())
    return _MARKDOWN.sub(r"\\\1", html.escape(text, quote=False))
