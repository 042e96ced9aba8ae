"""What eval/combined.py puts into W&B and TensorBoard: the tables, the figures, what is recommended, the report.

In W&B an evaluation is one run (`job_type: evaluation`) in the group of the schedule whose final model it measures.
Started again, it goes on in the same run (`wandb.json` in its folder): nothing is logged twice, a changed result is
logged as a new version. Both services have the same names: `accuracy/<row>`, `saving_net/<row>` and so on, drawn over
n, where `<row>` is the id of the row.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from eval.combined_csv import flat_row, flat_table
from eval.combined_tracking_figures import draw_figures
from runtime.console import say
from runtime.errors import InputError
from runtime.tensorboard import FOLDER, write_tensorboard
from runtime.tracking import (
    Artifact,
    Publication,
    check_services,
    home_of,
    last_published,
    publish,
    reporters,
    run_id,
    schedule_of,
    usable_report_to,
)

if TYPE_CHECKING:
    from eval.combined_config import CombinedConfig

Row = Mapping[str, Any]
KIND = "evaluation"
STEP = "n"
HEADLINES = (
    *("accuracy", "saving_net", "saving_gross", "net_tokens"),
    *("tokens_generated", "tokens_longest_trace", "wall_s"),
)
_LARGEST_PAGE = 10_000_000  # bytes; W&B shows a page as a whole. A larger report is in the artifact only
_RESULTS = ("rows", "differences", "recommendation", "recommendations", "live", "live_equals_replay")
_FILES = ("combined.json", "combined.csv", "report.html")


def check_tracking(report_to: str | Sequence[str], tracking_group: str | None) -> None:
    """Raise `InputError` for a service that is unknown or not installed, or a schedule that is not there."""
    check_services(report_to)
    if tracking_group is None:
        return
    if not reporters(report_to):
        raise InputError(f"key 'tracking_group' has the value '{tracking_group}', but 'report_to' is none")
    if not Path(tracking_group).is_dir():
        raise InputError(
            f"key 'tracking_group' has the value '{tracking_group}': no such folder; name a schedule's run folder"
        )


def publish_combined(config: "CombinedConfig", combined: Mapping[str, Any], folder: Path) -> None:
    """Send `combined`, and its files in `folder`, to the services of `report_to`. A failure of one is said and ends
    nothing; for W&B, the next start of the same command tries again."""
    services = usable_report_to(config.report_to)
    version = result_digest(combined)
    if "wandb" in services and last_published(folder) == version:
        services.remove("wandb")
        say("W&B: this result is logged already")
    if not services:
        return
    with tempfile.TemporaryDirectory() as scratch:
        content = combined_publication(combined, folder, draw_figures(combined, Path(scratch)))
        if "tensorboard" in services:
            write_tensorboard(folder / FOLDER, [content], STEP)
            say(f"TensorBoard: {escape(str(folder / FOLDER))}")
        if "wandb" in services:
            run_folder = Path(config.tracking_group) if config.tracking_group else None
            home = home_of(config.models.values(), folder, run_folder)
            about = {**combined["config"], "schedules": _schedules(config.models)}
            content = replace(content, artifact=_artifact(combined, folder, content.summary))
            publish(folder, {version: content}, about, kind=KIND, step=STEP, home=home)


def result_digest(combined: Mapping[str, Any]) -> str:
    """The same for the same results, whatever the folder is called and the versions of the packages are."""
    results = {key: combined[key] for key in _RESULTS if key in combined}
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def combined_publication(combined: Mapping[str, Any], folder: Path, pictures: Mapping[str, Path]) -> Publication:
    """All that is logged of a result besides its files; the numbers that come last are those of the largest n."""
    *curve, numbers = headline_curve(combined["rows"])
    differences = [
        {("difference_ci95" if key == "ci95" else key): value for key, value in entry.items()}
        for entry in combined["differences"]
    ]
    report = folder / "report.html"
    small = report.is_file() and report.stat().st_size <= _LARGEST_PAGE
    return Publication(
        numbers=numbers,
        curve=curve,
        tables={"results": flat_table(combined["rows"]), "differences": flat_table(differences)},
        pictures=pictures,
        summary=recommended(combined),
        pages={"report": report} if small else {},
    )


def headline_curve(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The headline numbers of all rows, one dict per n from the smallest on, by `<column>/<row>`."""
    curve = []
    for n in sorted({row["n"] for row in rows}):
        numbers: dict[str, float] = {STEP: n}
        for row in (row for row in rows if row["n"] == n):
            flat, name = flat_row(row), series_name(row)
            columns = [column for column in (*HEADLINES, *_costs(flat)) if flat.get(column) is not None]
            numbers |= {f"{column}/{name}": flat[column] for column in columns}
        curve.append(numbers)
    return curve


def series_name(row: Row) -> str:
    """The id of a row without its n, with no character that a service would replace.

    >>> series_name({"id": "aime24:R1 1.5B/deepprune/linear/n=8", "n": 8})
    'aime24/R1_1.5B/deepprune/linear'
    """
    name = str(row["id"]).removesuffix(f"/n={row['n']}").replace(":", "/", 1)
    return re.sub(r"[^-/\w.]", "_", name)


def recommended(combined: Mapping[str, Any]) -> dict[str, Any]:
    """What is recommended, in words and by its numbers; by benchmark where there are several."""
    entries = combined.get("recommendations") or [combined["recommendation"]]
    rows = {row["id"]: row for row in combined["rows"]}
    summary: dict[str, Any] = {}
    for entry in filter(None, entries):
        prefix = f"recommendation/{entry['benchmark']}" if len(entries) > 1 else "recommendation"
        summary[prefix] = "\n".join(entry.get("words", []))
        row = rows.get(entry.get("overall"))
        if row is not None:
            summary[f"{prefix}/method"] = row["id"]
            summary |= {f"{prefix}/{column}": row[column] for column in ("accuracy", "saving_net")}
    return summary


def _costs(flat: Row) -> list[str]:
    return [column for column in flat if column.startswith("cost_per_")]


def _schedules(models: Mapping[str, str]) -> dict[str, str]:
    """Model → the W&B group of the schedule that made it."""
    found = {name: schedule_of(path) for name, path in models.items()}
    return {name: home_of([], run).group for name, run in found.items() if run is not None}


def _artifact(combined: Mapping[str, Any], folder: Path, summary: Mapping[str, Any]) -> Artifact:
    """The files of the result; each evaluation has versions of its own."""
    name = re.sub(r"[^-\w.]", "_", folder.resolve().name[:60], flags=re.ASCII)
    files = [folder / file for file in _FILES if (folder / file).is_file()]
    about = {**summary, "settings": combined["settings"], "versions": combined["versions"]}
    return Artifact(f"{name}-{run_id(folder, KIND)}", KIND, files, about)
