"""Where metrics go besides the local files: which of the services named in `report_to` can be used, and W&B runs.

A schedule is one W&B group: a run per round, and one (`job_type: schedule`) that holds validation tables and choices.
Judges and evaluations of its final model join it. Ids are kept in `wandb.json` of each folder, so a restart continues
the same runs, and a folder that was deleted and begun anew gets new ones. What a service says or lacks never ends a
run: metrics are on disk anyway.
"""

import importlib.util
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from secateur.runtime.config import without_secrets
from secateur.runtime.console import CsvValue, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.process import current_ranks
from secateur.runtime.records import read_record, write_record

if TYPE_CHECKING:
    import wandb

SCHEDULE_RUN = "schedule"
OURS = ("wandb", "tensorboard")  # what reports besides the Trainer's own
SERVICES = (
    *("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow"),
    *("neptune", "swanlab", "tensorboard", "trackio", "wandb"),
)
"""What transformers' Trainer reports to (`INTEGRATION_TO_CALLBACK`); to ask it takes seconds."""
_DEFAULT_PROJECT = "huggingface"  # where the Trainer's runs go
_IDS, _FORMAT = "wandb.json", 1
_SERVICE = "WANDB_SERVICE"  # how a process hands its wandb-core on to its children
_NO_KEY = (
    "W&B: no API key found, so metrics are logged locally only; run `wandb login`, or set WANDB_API_KEY, or "
    "WANDB_MODE=offline to keep them for `wandb sync`"
)


@dataclass(frozen=True)
class Artifact:
    """Files that W&B keeps together and by version; `name` may hold letters, digits and "._-"."""

    name: str
    type: str
    files: Sequence[Path]
    metadata: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Publication:
    """What is added to a run at once: numbers, tables as (columns, rows), pictures, pages, values of the summary.

    `curve` holds further numbers, logged before `numbers`. `pages` are HTML files in which all text from outside is
    escaped.
    """

    numbers: Mapping[str, float]
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[CsvValue]]]] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    summary: Mapping[str, CsvValue] = field(default_factory=dict)
    curve: Sequence[Mapping[str, float]] = ()
    pages: Mapping[str, Path] = field(default_factory=dict)
    artifact: Artifact | None = None


@dataclass(frozen=True)
class _Memory:
    """What wandb.json of a folder holds: the `id` that its runs' ids begin with, the names of what was `published`,
    and once something was sent where it went."""

    id: str
    published: tuple[str, ...] = ()
    group: str | None = None
    project: str | None = None


@dataclass(frozen=True)
class Home:
    """The W&B group and project of runs that belong together."""

    group: str
    project: str


def reporters(report_to: str | Sequence[str] | None) -> list[str]:
    """The names in a value of `report_to`; "all" stays as it is.

    >>> reporters("wandb"), reporters(["tensorboard", "wandb"]), reporters("none"), reporters(None)
    (['wandb'], ['tensorboard', 'wandb'], [], [])
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    return [name for name in names if name != "none"]


def wants_wandb(report_to: str | Sequence[str] | None) -> bool:
    """Whether a value of `report_to` asks for W&B; "all" does where it is installed."""
    names = reporters(report_to)
    return "wandb" in names or ("all" in names and importlib.util.find_spec("wandb") is not None)


def check_reporters(report_to: str | Sequence[str] | None) -> list[str]:
    """The names in `report_to` of a training; raises `InputError` for a service that transformers does not know."""
    names = reporters(report_to)
    for name in names:
        if name != "all" and name not in SERVICES:
            choices = ", ".join(SERVICES)
            raise InputError(f"key 'report_to' has the value '{name}'; choose from none, all, {choices}")
    return names


def check_services(report_to: str | Sequence[str]) -> None:
    """Raise `InputError` for a service of `report_to` that is none of `OURS`, or not installed."""
    for name in reporters(report_to):
        if name not in OURS:
            raise InputError(f"key 'report_to' has the value '{name}'; choose from none, {', '.join(OURS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"key 'report_to' has the value '{name}', which is not installed; pip install {name}")


def usable_report_to(report_to: str | Sequence[str] | None) -> list[str]:
    """The services that this process can report to; W&B without a key is left out, with a message.

    "all" stands for the installed ones. Only the main process reports, so the others are never given W&B. Raises
    `InputError` for a service that is unknown or not installed.
    """
    from transformers.integrations import integration_utils as known

    installed, names = known.get_available_reporting_integrations(), check_reporters(report_to)
    names = installed if "all" in names else list(dict.fromkeys(names))
    for name in names:
        if name not in installed and name != "flyte":  # it can be used, but is never listed
            raise InputError(f"key 'report_to' has the value '{name}', which is not installed; pip install {name}")
    return [name for name in names if name != "wandb" or (current_ranks().is_main and wandb_is_usable())]


def wandb_is_usable() -> bool:
    """Whether W&B has a key that its server takes, or works offline; says so if not, unless it is switched off.
    Raises `InputError` where it is not installed."""
    try:
        import wandb
    except ImportError:
        raise InputError("key 'report_to' has the value 'wandb', which is not installed; pip install wandb") from None
    try:
        mode = wandb.setup().settings.mode
        if mode in ("offline", "dryrun", "disabled"):
            return mode != "disabled"  # or what nobody kept would count as sent
        usable = wandb.login(prompt=False, verify=True)
    except Exception as error:  # a refused key, or any failure of the network: none may stop the training
        say(f"W&B: cannot log in ({escape(first_line(error))}), so metrics are logged locally only")
        return False
    finally:
        wandb.teardown()  # it has read the environment; the run that is opened later must read it again
    if not usable:
        say(_NO_KEY)
    return usable


def run_id(folder: Path, name: str) -> str:
    """The id of the W&B run `name` of a folder, the same at every call; the folder must exist."""
    return f"{_memory(folder).id}-{name}"


def home_of(models: Iterable[str], folder: Path, run_folder: Path | None = None) -> Home:
    """Where what is made of `models` belongs: to the schedule in `run_folder`, else to the first whose `final/` is
    among them, else to itself, by the name of its own `folder`."""
    of_models = (run for run in map(schedule_of, models) if run is not None)
    return _known_home(run_folder or next(of_models, None) or folder)


def schedule_of(model: str) -> Path | None:
    """The run folder whose `final/` the model is, if that schedule was tracked."""
    path = Path(model).absolute()
    return path.parent if path.name == "final" and (path.parent / _IDS).is_file() else None


def name_wandb_run(folder: Path, name: str, project: str | None = None) -> None:
    """Make the next `wandb.init` of this process open, or continue, the run `name` of the schedule in `folder`."""
    os.environ["WANDB_RUN_ID"] = run_id(folder, name)  # one from outside would merge all rounds into one run
    os.environ["WANDB_RESUME"] = "allow"
    os.environ.pop(_SERVICE, None)  # a service of our parent's outlives a kill of ours and holds the run
    home = _own_home(folder, project)
    os.environ["WANDB_RUN_GROUP"], os.environ["WANDB_PROJECT"] = home.group, home.project
    _remember(folder, group=home.group, project=home.project)


def tracked_home(folder: Path) -> Home | None:
    """Where the runs of a folder went; None if nothing was sent."""
    group, project = _went_to(folder)
    return Home(group, project) if group and project else None


def unpublished(folder: Path, names: Sequence[str]) -> list[str]:
    """Which of `names` were not yet sent to the run of `folder`."""
    return [name for name in names if name not in _memory(folder).published]


def last_published(folder: Path) -> str | None:
    """The name of what was last sent to the run of `folder`."""
    return next(iter(_memory(folder).published[-1:]), None)


def publish(
    folder: Path,
    contents: Mapping[str, Publication],
    config: Mapping[str, JSON],
    project: str | None = None,
    *,
    kind: str = SCHEDULE_RUN,
    step: str = "round",
    home: Home | None = None,
) -> None:
    """Add `contents` to the run `kind` of `folder` and remember them by name; a failure is said and tried again
    later. `step` is the number that curves are drawn over.

    The run is open only meanwhile: training processes come and go beside it, and a kill leaves nothing behind.
    """
    import wandb

    home = home or _own_home(folder, project)
    try:
        with wandb.init(project=home.project, **run_options(folder, kind, home, config)) as run:
            run.define_metric("*", step_metric=step)
            for content in contents.values():
                for numbers in content.curve:
                    run.log(dict(numbers))
                run.log(_loggable(content))
                run.summary.update(dict(content.summary))
                if content.artifact is not None:
                    run.log_artifact(_artifact(content.artifact))
    except Exception as error:  # several kinds, not all of them W&B's own; nothing of it may end what is done here
        say(f"W&B: the {kind}'s run was not updated ({escape(first_line(error))}); it is tried again later")
        return
    finally:
        wandb.teardown()  # or the processes that are launched next would share this one's service
    published = (*_memory(folder).published, *contents)
    _remember(folder, published=published, group=home.group, project=home.project)


def run_options(folder: Path, kind: str, home: Home, config: Mapping[str, JSON]) -> dict[str, object]:
    """Arguments of `wandb.init`, besides the project, for the run `kind` of `folder`."""
    import wandb

    return {
        "id": run_id(folder, kind),
        "resume": "allow",
        "group": home.group,
        "name": f"{folder.resolve().name}/{kind}",
        "job_type": kind,
        "config": without_secrets(config),
        "settings": wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=60),
    }


def _loggable(content: Publication) -> dict[str, object]:
    import wandb

    tables = {
        key: wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        for key, (columns, rows) in content.tables.items()
    }
    pictures = {key: wandb.Image(str(path)) for key, path in content.pictures.items()}
    pages = {key: wandb.Html(str(path), inject=False) for key, path in content.pages.items()}
    return {**content.numbers, **tables, **pictures, **pages}


def _artifact(description: Artifact) -> "wandb.Artifact":
    import wandb

    artifact = wandb.Artifact(description.name, description.type, metadata=dict(description.metadata))
    for path in description.files:
        artifact.add_file(str(path), name=path.name)
    return artifact


def _own_home(folder: Path, project: str | None = None) -> Home:
    """As the environment says, else where its runs went before, also if it was moved; else by the folder's name."""
    group, known = _went_to(folder)
    group = os.environ.get("WANDB_RUN_GROUP") or group or folder.resolve().name
    return Home(group, project or os.environ.get("WANDB_PROJECT") or known or _DEFAULT_PROJECT)


def _known_home(folder: Path) -> Home:
    """The home that a folder's runs went to, else the one that they would have."""
    own, (group, project) = _own_home(folder), _went_to(folder)
    return Home(group or own.group, project or own.project)


def _went_to(folder: Path) -> tuple[str | None, str | None]:
    """Group and project that a folder's runs went to so far."""
    known = _memory(folder) if (folder / _IDS).is_file() else None
    return (known.group, known.project) if known else (None, None)


def _memory(folder: Path) -> _Memory:
    """wandb.json of a folder, made where it is missing."""
    path = folder / _IDS
    if not path.is_file():
        write_record(path, _Memory(secrets.token_hex(4)), _FORMAT)
    return read_record(path, _Memory, _FORMAT, "delete it, and the folder's runs begin anew")


def _remember(folder: Path, **changes: str | tuple[str, ...]) -> None:
    known = _memory(folder)
    if (now := replace(known, **changes)) != known:
        write_record(folder / _IDS, now, _FORMAT)


def first_line(error: Exception) -> str:
    """What an error says in its first line, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
