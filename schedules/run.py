"""The whole schedule of ThinkPrune as a chain of launches: train a round, validate its checkpoints, choose, go on.

    python schedules/run.py --config configs/demo/thinkprune.yaml --accelerate_config configs/accelerate/cpu.yaml
    python schedules/run.py --config … --accelerate_config … --push_to_hub true --hub_model_id user/name

Can be killed and started again at any time: what is on disk is not done twice. One launch per round, because
DeepSpeed and colocated vLLM do not give their memory back within a process, and because restart and resume are then
one path. One driver decides for all machines: `--launcher WORDS` puts a command in front of every launch that starts
it on each of them. `--num_processes N` overrides the accelerate config. `--dry_run true` prints the plan and stops.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.markup import escape

from schedules.candidates import candidate_steps, damaged_checkpoints
from schedules.choice import START, Candidate, explain
from schedules.config import TOKEN, RunConfig, first_question, read_run_config
from schedules.dead import refuse_dead
from schedules.export import export_model
from schedules.launch import REPOSITORY, Launcher
from schedules.model_card import PICTURE, write_model_card
from schedules.records import (
    ENGINE,
    VALIDATION,
    SelectionRecord,
    ValidationRecord,
    read_trained_by,
    read_validation,
    selection_record,
    write_selection,
    write_validation,
)
from schedules.rounds import Round
from schedules.state import (
    Action,
    RunFolder,
    clear_stop,
    prune_decided,
    request_stop,
    stop_requested,
)
from schedules.validation.report import draw_rounds, round_publication, show_rounds, show_selection
from schedules.validation.sampling import RoundValidation, validation_processes, validation_settings
from schedules.validation.screening import Screening
from secateur.runtime.config import take_options
from secateur.runtime.console import say, say_end
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder
from secateur.runtime.hub import RECORD, SAFE_FILES, Target, check_push, push_once
from secateur.runtime.process import entry_point
from secateur.runtime.tensorboard import write_tensorboard
from secateur.runtime.tracking import publish, reporters, unpublished, wandb_is_usable, wants_wandb

TRAINER = "trainers/grpo_len.py"


class Driver:
    """Carries out one action after the other; knows nothing of what the launched scripts do inside."""

    def __init__(self, config: RunConfig, argv: list[str], launcher: Launcher) -> None:
        self.config, self.argv, self.launcher = config, argv, launcher
        self.folder = RunFolder(config)
        self._wandb = False
        self._target: Target | None = None
        validation_processes(config.schedule, launcher)  # refuses what cannot be spread over the processes

    def run(self) -> None:
        self.launcher.listen()
        if self.config.schedule.dry_run:
            self._check()
            return
        begun = self.folder.check()
        self._target = self._hub_target()
        self._ask_wandb()
        if not begun:
            self._check()
        self.folder.open()
        with hold_folder(self.folder.path / "rounds"):  # a launch holds the run folder itself
            self._work()

    def _hub_target(self) -> Target | None:
        """Where `final/` is pushed to; raises `HubError` before any work if it may not be."""
        schedule = self.config.schedule
        if not schedule.push_to_hub:
            return None
        name = schedule.hub_model_id or self.folder.path.resolve().name
        return check_push(Target(name, schedule.hub_private_repo, schedule.hub_revision, self.config.hub_token))

    def _ask_wandb(self) -> None:
        """Once for all launches, so that what is missing is said once. "all" is left to them: they know the rest."""
        asked = self.config.trainer.get("report_to")
        self._wandb = wants_wandb(asked) and wandb_is_usable()
        if "wandb" in reporters(asked) and not self._wandb:
            others = [name for name in reporters(asked) if name != "wandb"]
            self.argv = [*self.argv, "--report_to", *(others or ["none"])]

    def _check(self) -> None:
        """What only the trainer knows: its keys, the data, the model; with `dry_run` it prints the plan as well. Then
        what only the validation knows, hours before it comes."""
        command = [sys.executable, str(REPOSITORY / TRAINER), *self.argv]
        command += ["--check_for_processes", str(self.launcher.processes)]
        self.launcher.run([*command, "--accelerate_config", self.launcher.accelerate_config], quiet=True)
        with tempfile.TemporaryDirectory() as folder:
            schedule = self.config.schedule
            RoundValidation(schedule, Path(folder), {START: schedule.model}).check(self.launcher)

    def _work(self) -> None:
        clear_stop(self.folder.path)
        self._follow_up()
        final = self.folder.path / "final"
        if self.folder.next_action().kind == "done":
            say(f"all done: {escape(str(final))}")
        while (action := self.folder.next_action()).kind != "done":
            self.launcher.end_if_stopped()
            self._carry_out(action)
        show_rounds(self.folder.selections())
        say(f"  picture: {escape(str(self.folder.path / PICTURE))}")
        write_model_card(self.config, self._target)
        say(f"final model: [bold]{escape(str(final))}[/bold], with its model card")
        if self._target is not None:
            self._push(final, self._target)
        say_end(final / "README.md", first_question(self.config.schedule, final))

    def _push(self, final: Path, target: Target) -> None:
        """What lies on the Hub already is not sent again; a push that failed is tried again at the next start."""
        patterns, record = (*SAFE_FILES, PICTURE), self.folder.path / RECORD
        url, pushed = push_once(final, record, target, patterns=patterns, message="The schedule's final model")
        say(f"  {'pushed to' if pushed else 'is on the Hub:'} {escape(url)}")

    def _carry_out(self, action: Action) -> None:
        round_ = action.round
        if action.kind == "export" or round_ is None:
            export_model(
                self.folder.locate(action.start_model), self.folder.path / "final", self.config.schedule.model
            )
        elif action.kind == "train":
            self._train(round_, action.start_model)
        elif action.kind == "validate":
            self._validate(round_, action.start_model)
        else:
            self._choose(round_, action.start_model)
            self._follow_up()

    def _train(self, round_: Round, start_model: str) -> None:
        """One launch. Ranks stop at the end of a step when asked; the launcher would kill them too early."""
        say(f"[bold]round {round_.name}[/bold]: {round_.max_steps} steps from {escape(start_model)}")
        run, start = self.folder.path, self.folder.locate(start_model)
        refuse_dead(self.folder.round_folder(round_), self.config.schedule.stop_when_dead)
        self._check_what_is_kept(round_)
        if self.config.schedule.pass_rate is not None:
            folder = self.folder.round_folder(round_)
            Screening(self.config, self.argv, round_, folder).run(self.launcher, start)
        log = self.folder.round_folder(round_) / "train.jsonl"
        command = self.launcher.command(TRAINER, self.argv)
        try:
            self.launcher.run(
                command, done=f"round {round_.name} trained", log=log, ask_to_stop=lambda: request_stop(run)
            )
        finally:
            stopped = stop_requested(run)  # it may have been put there by hand
            clear_stop(run)
        if stopped:
            self.launcher.stopped = True

    def _check_what_is_kept(self, round_: Round) -> None:
        """What a round that goes on does not make anew is refused here in one line, not by every process."""
        folder = self.folder.round_folder(round_)
        damaged_checkpoints(folder)
        if (folder / ENGINE).is_file() and (folder / f"checkpoint-{round_.max_steps}").is_dir():
            read_trained_by(folder)

    def _validate(self, round_: Round, start_model: str) -> None:
        """Sample every checkpoint of the round; the start model's figures are known after round 1."""
        folder = self.folder.round_folder(round_)
        steps = candidate_steps(folder, round_)
        if not steps:
            raise InputError(
                f"{folder}: no whole checkpoint is left to validate; to train anew, delete training.json"
            )
        models = {step: str(folder / f"checkpoint-{step}") for step in steps}
        models = {START: self.folder.locate(start_model)} | models
        known = None if round_.index == 1 else self._known_start(round_)
        original = None if round_.index == 1 else self.folder.original_figures()
        candidates = RoundValidation(self.config.schedule, folder, models).run(self.launcher, known, original)
        settings = validation_settings(self.config.schedule)
        write_validation(folder / VALIDATION, ValidationRecord(settings, tuple(candidates)))

    def _known_start(self, round_: Round) -> Candidate:
        """The figures of the model that the round before chose: same problems, same settings, no need to repeat."""
        before = self.folder.rounds[round_.index - 2]
        chosen, figures = self.folder.chosen_step(before), self.folder.round_folder(before) / VALIDATION
        measured = next(one for one in read_validation(figures).candidates if one.step == chosen)
        return replace(measured, step=START)

    def _choose(self, round_: Round, start_model: str) -> None:
        folder, selection = self.folder.round_folder(round_), self.folder.choice(round_)
        candidate_steps(folder, round_)  # damaged since it was validated, one would be dropped without a word
        next_limit, reason = self.folder.next_limit(round_, selection.chosen), explain(selection)
        record = selection_record(round_.limit, start_model, selection, reason, next_limit)
        show_selection(round_, selection, reason)
        self._say_what_follows(round_, record)
        write_selection(folder, record)

    def _say_what_follows(self, round_: Round, record: SelectionRecord) -> None:
        schedule = self.config.schedule
        if round_.index == len(schedule.limits):
            return
        if self.folder.is_last(round_, record):
            say("  the schedule ends here, before its last limit")
        elif record.next_limit is not None:
            words = f"the {schedule.auto_quantile:g} quantile of the chosen model's lengths"
            say(f"  the next limit: {record.next_limit} tokens, from {words}")

    def _follow_up(self) -> None:
        """What comes after choices; a kill may have fallen between, so it is looked through at every start."""
        prune_decided(self.folder, self.config.schedule.keep_checkpoints)
        selections, picture = self.folder.selections(), self.folder.path / PICTURE
        if not selections:
            return
        draw_rounds(picture, self.config.schedule.model, selections)
        self._report(selections, picture)

    def _report(self, selections: Sequence[tuple[Round, SelectionRecord]], picture: Path) -> None:
        """The choices for the services in `report_to`; W&B is sent what it has not got yet."""
        contents = {
            round_.name: round_publication(selections[:index], self.folder.round_folder(round_), picture)
            for index, (round_, _) in enumerate(selections, start=1)
        }
        if "tensorboard" in reporters(self.config.trainer.get("report_to")):
            write_tensorboard(self.folder.path / "tensorboard" / "schedule", list(contents.values()), "round")
        if self._wandb and (waiting := unpublished(self.folder.path, list(contents))):
            new = {name: contents[name] for name in waiting}
            publish(self.folder.path, new, self.config.resolved(), self.config.trainer.get("project"))


@entry_point
def main() -> None:
    argv, launch = take_options(sys.argv[1:], ("accelerate_config", "launcher", "num_processes"))
    processes = launch.get("num_processes")
    if "accelerate_config" not in launch:
        raise InputError("command line: --accelerate_config is missing; give a file of configs/accelerate/")
    if processes is not None and not processes.isdigit():
        raise InputError(f"command line: --num_processes has the value '{processes}'; give a number")
    started = Launcher(launch["accelerate_config"], launch.get("launcher", ""), int(processes) if processes else None)
    config = read_run_config(argv)
    argv, _ = take_options(argv, (TOKEN,))  # the launches see their command lines, and so does everybody else
    Driver(config, argv, started).run()


if __name__ == "__main__":
    main()
