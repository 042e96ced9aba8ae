"""The run folder of a schedule: what is on disk decides what comes next, so a kill at any point costs little.

    config.yaml                     all keys of the run
    start_model.json                the fingerprint of the model that round 1 starts from
    data.json                       which training problems were kept and left out, and why
    rounds/1-limit-4000/
        checkpoint-*/               see trainers/steps/checkpoints.py
        incomplete-checkpoint-*/    a checkpoint that was found damaged, until the round has chosen
        pass_rate.json              rates of the training problems, with key pass_rate (validation/screening.py)
        train.jsonl                 metrics of every step
        dead.json                   why the round was ended before its time, where `stop_when_dead` did it
        groups.jsonl                which groups were mixed, with key dynamic_prompts (trainers/grpo/dynamic.py)
        training.json               written when the round's training has ended
        validation/                 samples of every candidate (eval/single.py)
        validation.json             figures of every candidate
        selection.json              the choice
    final/                          the chosen model, a plain Hugging Face folder with its model card
    final.json                      checksums of its files; what is damaged is exported again
    card.json                       what the card knows beyond the other files: versions, later measurements
    hub.json                        what of final/ was pushed where
    rounds.png                      accuracy and length of all candidates
    tensorboard/                    event files: one folder per round, and schedule/, where they are asked for
    wandb.json                      ids of the W&B runs, so that a restart continues them
    .stop                           asks the training in progress to stop; schedules/run.py writes it on SIGTERM

Every file is replaced atomically and each step looks only at the files of the steps before it.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from rich.markup import escape

from schedules.choice import START, Candidate, Selection, choose, name_of, pick_reference, shortens_enough
from schedules.config import RunConfig, ScheduleConfig
from schedules.export import drop_training_state, finish_removals, is_training_state, remove_folder
from schedules.integrity import (
    MARKER,
    damage,
    export_damage,
    read_marker,
    saved_checkpoints,
    step_of,
)
from schedules.records import SELECTION, VALIDATION, SelectionRecord, has_chosen, read_selection, read_validation
from schedules.rounds import Round, draw_limit
from secateur.engines.registry import engine_kind
from secateur.runtime.config import read_written_yaml, write_yaml
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from secateur.runtime.records import check_start_model, write_start_model

_RESTORE = "put a copy of it there; the file that the run was started with will do"
TRAINING = "training.json"  # written by the trainer when a round's training has ended
# Keys that change how a run is shown or packed, or what memory and connections it uses, not what it computes; they
# may differ between restarts.
FREE_KEYS = frozenset(
    {
        *("output_dir", "report_to", "run_name", "project", "trackio_space_id", "logging_steps"),
        *("log_completions", "num_completions_to_print", "keep_checkpoints", "dry_run", "gpu_memory_gib"),
        *("dead_after_steps", "stop_when_dead", "logged_completions"),
        "tokens_per_second",
        *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"),
        *("validation_rows", "gradient_checkpointing", "gradient_checkpointing_kwargs", "ddp_timeout"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("torch_empty_cache_steps", "ds3_gather_for_generation"),
        *("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_server_base_url", "vllm_server_host"),
        *("vllm_server_port", "vllm_server_timeout", "vllm_group_port"),
    }
)


@dataclass(frozen=True)
class Action:
    """What a run needs next. `start_model` is the model that the round starts from or that is to be exported."""

    kind: Literal["train", "validate", "choose", "export", "done"]
    round: Round | None
    start_model: str


class RunFolder:
    """The folder of one run: what lies where in it, and what comes next."""

    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.schedule.output_dir)
        self._planned = config.schedule.rounds
        self._auto = (config.schedule.auto_quantile, config.schedule.auto_floor or 1)
        self._min_shortening = config.schedule.min_shortening
        self.original_model = config.schedule.model
        self._tolerance = (config.schedule.tolerance_reference, config.schedule.tolerance)
        self._final_is_whole = False
        self._resolved = config.resolved()

    def open(self) -> None:
        """Write `config.yaml`, or make sure that the one there is ours; raises `InputError` and changes nothing. Keys
        that were corrected before their first use stand in it from now on."""
        known = self._is_known()
        if not known or unused_keys(self.path, self._resolved):
            write_yaml(self.path / "config.yaml", self._resolved)
        if "model" in unused_keys(self.path, self._resolved):
            write_start_model(self.path, self.original_model)

    def check(self) -> bool:
        """Whether the folder holds this run already, nothing corrected; raises `InputError` if it holds another
        one."""
        known = self._is_known()
        return known and not _differing(_stored_config(self.path), self._resolved)

    def _is_known(self) -> bool:
        """Whether there is a run, which is this one and began with the weights that are there now."""
        known = check_same_config(self.path, self._resolved)
        if "model" not in unused_keys(self.path, self._resolved):
            check_start_model(self.path, self.original_model)
        return known

    @property
    def rounds(self) -> list[Round]:
        """The rounds whose limits are known: one with an auto limit only once the round before it has chosen, which
        stores what it has drawn for it."""
        known: list[Round] = []
        for round_ in self._planned:
            limit = self._drawn_after(known[-1]) if round_.drawn else round_.limit
            if limit is None:
                break
            known.append(replace(round_, limit=limit, drawn=False))
        return known

    def _drawn_after(self, round_: Round) -> int | None:
        folder = self.round_folder(round_)
        return read_selection(folder).next_limit if has_chosen(folder) else None

    def next_limit(self, round_: Round, chosen: Candidate) -> int | None:
        """The limit that the round after `round_` is to have, where it is drawn from the lengths of the `chosen`
        model; None where it has one of its own, or there is none. Raises `InputError` if no length is known."""
        after = self._planned[round_.index : round_.index + 1]
        if not after or not after[0].drawn:
            return None
        lengths = [tokens for problem in chosen.per_problem.values() for tokens in problem.lengths]
        if not lengths:
            raise InputError(
                f"{self.round_folder(round_) / VALIDATION}: holds no lengths to draw the next limit from; delete it "
                "and start schedules/run.py again, which makes it anew from what is stored"
            )
        return draw_limit(lengths, *self._auto, round_.limit)

    def round_folder(self, round_: Round) -> Path:
        return self.path / "rounds" / round_.name

    def locate(self, model: str) -> str:
        """Where the model named in a selection lies: a checkpoint of this run, or anything else unchanged.

        Raises `InputError` if that checkpoint was damaged since it was chosen.
        """
        if not model.startswith("rounds/"):
            return model
        folder = self.path / model
        if folder.is_dir() and (fault := damage(folder)):
            raise InputError(
                f"{folder}: the chosen model was damaged since it was saved: {fault}; restore it from a copy, or "
                f"delete {folder.parent} and the rounds after it to train them anew"
            )
        return str(folder)

    def selections(self) -> list[tuple[Round, SelectionRecord]]:
        """The choice of every round that has chosen, in the order of the rounds."""
        folders = ((round_, self.round_folder(round_)) for round_ in self.rounds)
        return [(round_, read_selection(folder)) for round_, folder in folders if has_chosen(folder)]

    def choice(self, round_: Round) -> Selection:
        """What follows from the figures of the round's candidates. Raises `InputError` if they cannot be read."""
        candidates = read_validation(self.round_folder(round_) / VALIDATION).candidates
        reference = pick_reference(self.original_figures(), candidates[0], self._tolerance[0])
        return choose(candidates, reference, self._tolerance[1], round_.expands)

    def original_figures(self) -> Candidate:
        """Those of the model that round 1 started from. Raises `InputError` if they cannot be read."""
        return read_validation(self.round_folder(self.rounds[0]) / VALIDATION).candidates[0]

    def chosen_step(self, round_: Round) -> int:
        """The choice of a round that has chosen. Raises `InputError` if it does not follow from its figures: one of
        the two files is damaged, and the other candidates' weights may be deleted on their word."""
        folder = self.round_folder(round_)
        stored, found = read_selection(folder).chosen_step, self.choice(round_).chosen_step
        if stored != found:
            raise InputError(
                f"{folder / SELECTION}: names {name_of(stored)}, but the figures in {VALIDATION} beside it choose "
                f"{name_of(found)}; restore the file that was changed, or delete {SELECTION} to choose again"
            )
        return stored

    def next_action(self) -> Action:
        start = self.original_model
        for round_ in self.rounds:
            folder = self.round_folder(round_)
            if not has_chosen(folder):
                return Action(_unfinished_step(folder), round_, start)
            chosen = self.chosen_step(round_)
            if chosen != START:
                start = f"rounds/{round_.name}/checkpoint-{chosen}"
            if self.is_last(round_, read_selection(folder)):
                break
        return Action("done" if self._is_exported() else "export", None, start)

    def is_last(self, round_: Round, record: SelectionRecord) -> bool:
        """Whether the schedule ends with this choice before its last limit: the limit could not be met, and a tighter
        one cannot either; it has shortened too little for `min_shortening`; or nothing is left that could be lost. An
        expanding round may fail, and need not shorten."""
        if record.reference.pass_at_1 == 0:
            return True
        enough = shortens_enough(record.start, record.chosen, self._min_shortening)
        return not round_.expands and (record.chosen_step == START or not enough)

    def _is_exported(self) -> bool:
        """Whether `final/` is what was exported; read once, for it may be large."""
        final = self.path / "final"
        if not self._final_is_whole and final.is_dir():
            fault = export_damage(final)
            self._final_is_whole = fault is None
            if fault:
                say(f"  exported again: {escape(str(final))}: {escape(fault)}")
        return self._final_is_whole


def _unfinished_step(folder: Path) -> Literal["train", "validate", "choose"]:
    if not (folder / TRAINING).is_file():
        return "train"
    return "choose" if (folder / VALIDATION).is_file() else "validate"


def check_same_config(folder: Path, resolved: Mapping[str, JSON]) -> bool:
    """False if `folder` has no `config.yaml` yet, True if it holds `resolved`.

    Raises `InputError` naming the first key that differs, or the folder if it is not empty and no run folder.
    """
    if not (folder / "config.yaml").is_file():
        foreign = [path.name for path in folder.glob("[!.]*") if _has_files(path)]
        if foreign:
            raise InputError(
                f"output_dir {folder}: holds '{min(foreign)}' but no config.yaml, so it is not a run of ours; "
                "choose an empty folder"
            )
        return False
    stored = _stored_config(folder)
    for key in sorted(_differing(stored, resolved) - unused_keys(folder, stored.keys() | resolved.keys())):
        there, now = (_binding_value(key, values) for values in (stored, resolved))
        raise InputError(
            f"output_dir {folder}: holds a run with another configuration: '{key}' is {there!r} there "
            f"and {now!r} now; choose another output_dir or restore the value"
        )
    return True


def _has_files(path: Path) -> bool:
    """Not for a folder with locks alone, which a start that was killed before it wrote anything leaves behind."""
    return not path.is_dir() or any(inner.is_file() and not inner.name.startswith(".") for inner in path.rglob("*"))


def _stored_config(folder: Path) -> dict[str, JSON]:
    """The keys of a run; one that came after it was begun has its default."""
    entries = fields(ScheduleConfig)
    defaults = {one.name: one.default for one in entries if one.default is not MISSING}
    made = {one.name: one.default_factory() for one in entries if one.default_factory is not MISSING}
    return defaults | made | read_written_yaml(folder / "config.yaml", _RESTORE)


def _differing(stored: Mapping[str, JSON], resolved: Mapping[str, JSON]) -> set[str]:
    """Keys that a restart has to repeat and that it does not."""
    keys = (stored.keys() | resolved.keys()) - FREE_KEYS
    return {key for key in keys if _binding_value(key, stored) != _binding_value(key, resolved)}


def unused_keys(folder: Path, keys: Collection[str]) -> frozenset[str]:
    """Those of `keys` that nothing in the run folder depends on yet, so that they may still be corrected: all of them
    before the first step, those of the validation before its first trace, those of the choice before the first."""
    rounds = folder / "rounds"
    if not any(any(rounds.glob(f"*/{name}")) for name in ("train.jsonl", "checkpoint-*", TRAINING, SELECTION)):
        return frozenset(keys)
    free = [] if _choice_has_begun(folder) else [key for key in keys if key.startswith("tolerance")]
    if not any(rounds.glob(f"*/{VALIDATION}")) and not any(rounds.glob("*/validation/*/*/traces-*.jsonl")):
        free += [key for key in keys if key.startswith(("validation_", "racing_"))]
    return frozenset(free)


def _choice_has_begun(folder: Path) -> bool:
    """Whether a round has chosen, or a race has ended, whose decisions need the choice's keys as well."""
    known = (folder / "config.yaml").is_file()
    raced = known and _stored_config(folder)["racing_confidence"] is not None
    return any(any(folder.glob(f"rounds/*/{name}")) for name in (SELECTION, *([VALIDATION] if raced else ())))


def _binding_value(key: str, values: Mapping[str, JSON]) -> JSON:
    """What a restart has to repeat."""
    value = values.get(key)
    if key == "validation_engine_options" and isinstance(value, dict):
        free = engine_kind(values["validation_engine"], "validation_engine").free_options
        return {name: option for name, option in value.items() if name not in free}
    return value


STOP = ".stop"


def request_stop(run_folder: Path) -> None:
    """Ask the training in progress to stop at the end of its step; a file reaches the processes of every machine."""
    write_text(run_folder / STOP, "delete this file to let the run go on\n")


def stop_requested(run_folder: Path) -> bool:
    return (run_folder / STOP).is_file()


def clear_stop(run_folder: Path) -> None:
    (run_folder / STOP).unlink(missing_ok=True)


def prune_checkpoints(round_folder: Path, chosen_step: int, keep: str) -> None:
    """Delete what nobody needs of a round that has chosen. The whole rule, for a run of any length:

    - While a round trains, the newest two whole checkpoints keep their training state (optimiser, random states),
      the older ones stay as models: they are candidates. One saved out of turn, on a stop, goes when the next
      regular one is whole; one found damaged is set aside.
    - Once it has chosen, no checkpoint keeps training state, and what was set aside or saved out of turn goes. With
      `keep` "chosen" the weights of the other candidates go as well, with "all" they stay, damaged or not.
    - Never deleted: the weights of the chosen checkpoint, which the next round starts from, and `final/`.

    May be called again, also after a kill in the middle.
    """
    finish_removals(round_folder)
    for folder in round_folder.glob("incomplete-checkpoint-*"):
        shutil.rmtree(folder)
    for folder in saved_checkpoints(round_folder):
        whole = damage(folder, whole_files=False, spared=is_training_state) is None
        if step_of(folder) == chosen_step:
            if whole:
                drop_training_state(folder)
        elif keep == "chosen" or not (folder / MARKER).is_file() or (whole and not read_marker(folder).regular):
            remove_folder(folder)
        elif whole:  # what was damaged since stays as it is: nobody reads it any more
            drop_training_state(folder)


def prune_decided(run: RunFolder, keep: str) -> None:
    """Prune every round that has chosen; does nothing where that has been done."""
    for round_ in run.rounds:
        folder = run.round_folder(round_)
        if has_chosen(folder):
            prune_checkpoints(folder, run.chosen_step(round_), keep)
