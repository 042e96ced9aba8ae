"""The trackers of `accelerate`, for training loops that are not a Trainer's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from rich.markup import escape

from runtime.console import say
from runtime.tensorboard import FOLDER
from runtime.tracking import first_line, home_of, run_options, usable_report_to


def start_trackers(
    accelerator: Accelerator,
    report_to: str | Sequence[str],
    folder: Path,
    kind: str,
    models: Sequence[str],
    config: Mapping[str, Any],
) -> None:
    """Let `accelerator.log` of the main process reach the services that can be used: the W&B run `kind` of `folder`
    in the group that `home_of(models, folder)` says, and event files in `folder/tensorboard`.

    W&B has one run for all starts. A failure of a service is said and ends nothing. Raises `InputError` as
    `usable_report_to` does.
    """
    if not accelerator.is_main_process:
        return
    for service in usable_report_to(report_to):
        try:
            tracker = _tracker(service, folder, kind, models, config)
            tracker.start()
        except Exception as error:  # several kinds, not all of them W&B's own; the figures are on disk anyway
            say(f"{service}: nothing is logged there ({escape(first_line(error))})")
        else:
            accelerator.trackers.append(tracker)


def _tracker(
    service: str, folder: Path, kind: str, models: Sequence[str], config: Mapping[str, Any]
) -> GeneralTracker:
    if service == "tensorboard":
        return TensorBoardTracker("", folder / FOLDER)
    home = home_of(models, folder)
    return WandBTracker(home.project, **run_options(folder, kind, home, config))
