"""The trackers of `accelerate`, for training loops that are not a Trainer's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from rich.markup import escape

from secateur.runtime.console import say
from secateur.runtime.files import JSON
from secateur.runtime.tensorboard import FOLDER, forget_after
from secateur.runtime.tracking import first_line, home_of, run_options, usable_report_to


def start_trackers(
    accelerator: Accelerator,
    report_to: str | Sequence[str],
    folder: Path,
    kind: str,
    models: Sequence[str],
    config: Mapping[str, JSON],
    resumed_at: int = 0,
) -> None:
    """Let `accelerator.log` of the main process reach the services that can be used: the W&B run `kind` of `folder`
    in the group that `home_of(models, folder)` says, and event files in `folder/tensorboard`.

    Both go on as one where a training does; `resumed_at` is the step that this start goes on from. A failure of a
    service is said and ends nothing. Raises `InputError` as `usable_report_to` does.
    """
    if not accelerator.is_main_process:
        return
    for service in usable_report_to(report_to):
        try:
            tracker = _tracker(service, folder, kind, models, config, resumed_at)
            tracker.start()
        except Exception as error:  # several kinds, not all of them W&B's own; the figures are on disk anyway
            say(f"{service}: nothing is logged there ({escape(first_line(error))})")
        else:
            accelerator.trackers.append(tracker)


def _tracker(
    service: str, folder: Path, kind: str, models: Sequence[str], config: Mapping[str, JSON], resumed_at: int
) -> GeneralTracker:
    if service == "tensorboard":
        forget_after(folder / FOLDER, resumed_at)
        return TensorBoardTracker("", folder / FOLDER)
    home = home_of(models, folder)
    return WandBTracker(home.project, **run_options(folder, kind, home, config))
