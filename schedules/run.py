"""The whole schedule of ThinkPrune as a chain of launches: train a round, validate its checkpoints, choose, go on.

    python schedules/run.py --config configs/demo/thinkprune.yaml --accelerate_config configs/accelerate/cpu.yaml

Can be killed and started again at any time: what is on disk is not done twice. One launch per round, because
DeepSpeed and colocated vLLM do not give their memory back within a process, and because restart and resume are then
one path.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml
from rich.markup import escape
from rich.table import Table

from runtime.config import read_yaml
from runtime.console import console, say
from runtime.errors import InputError, entry_point
from runtime.files import read_json, write_json, write_text
from schedules.choice import START, Candidate, Selection, choose, pick_reference
from schedules.config import RunConfig, read_run_config
from schedules.export import COMPLETION_MARKER, export_model
from schedules.rounds import Round
from schedules.state import Action, RunFolder

REPOSITORY = Path(__file__).resolve().parent.parent


class Driver:
    """Carries out one action after the other; knows nothing of what the launched scripts do inside."""

    def __init__(self, config: RunConfig, argv: list[str], accelerate_config: str) -> None:
        self.config, self.argv, self.accelerate_config = config, argv, accelerate_config
        self.folder = RunFolder(config)
        self.processes = read_yaml(accelerate_config).get("num_processes") or 1

    def run(self) -> None:
        if not self.folder.check():
            self._check_trainer_keys()
            self.folder.open()
        if self.folder.next_action().kind == "done":
            say(f"all done: {escape(str(self.folder.path / 'final'))}")
            return
        while (action := self.folder.next_action()).kind != "done":
            self._carry_out(action)
        say(f"final model: [bold]{escape(str(self.folder.path / 'final'))}[/bold]")

    def _check_trainer_keys(self) -> None:
        command = [sys.executable, str(REPOSITORY / "trainers" / "grpo_len.py"), *self.argv]
        run_command([*command, "--check_for_processes", str(self.processes)], quiet=True)

    def _carry_out(self, action: Action) -> None:
        round_ = action.round
        if action.kind == "export" or round_ is None:
            export_model(self.folder.locate(action.start_model), self.folder.path / "final")
        elif action.kind == "train":
            say(f"[bold]round {round_.name}[/bold]: {round_.max_steps} steps from {escape(action.start_model)}")
            self._launch("trainers/grpo_len.py", self.argv, self.folder.round_folder(round_) / "train.jsonl")
        elif action.kind == "validate":
            self._validate(round_, action.start_model)
        else:
            self._choose(round_, action.start_model)

    def _launch(self, script: str, arguments: list[str], log: Path) -> None:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", self.accelerate_config]
        if (read_yaml(self.accelerate_config).get("num_machines") or 1) == 1:
            command += ["--main_process_port", "0"]  # any free one: several runs may share the machine
        run_command([*command, str(REPOSITORY / script), *arguments], log=log)

    def _validate(self, round_: Round, start_model: str) -> None:
        """Sample every checkpoint of the round in one launch; the start model's figures are known after round 1."""
        folder = self.folder.round_folder(round_)
        steps = candidate_steps(folder)
        models = {_name(step): str(folder / f"checkpoint-{step}") for step in steps}
        known = None if round_.index == 1 else self._known_start(round_)
        if known is None:
            models = {_name(START): self.folder.locate(start_model)} | models
        settings = self._validation_settings() | {"models": models, "output_dir": str(folder / "validation")}
        write_text(folder / "validation.yaml", yaml.safe_dump(settings, sort_keys=False))
        self._launch("eval/single.py", ["--config", str(folder / "validation.yaml")], folder / "validation")
        summary = read_json(folder / "validation" / "summary.json")["models"]
        start = known or {"step": START, **summary[_name(START)]}
        candidates = [start, *({"step": step, **summary[_name(step)]} for step in steps)]
        write_json(folder / "validation.json", {"settings": self._validation_settings(), "candidates": candidates})

    def _validation_settings(self) -> dict[str, Any]:
        keys = self.config.schedule
        return {
            "problems": keys.validation_problems,
            "problem_count": keys.validation_count,
            "samples": keys.validation_samples,
            "temperature": keys.validation_temperature,
            "top_p": keys.validation_top_p,
            "max_tokens": keys.validation_max_tokens,
            "dtype": keys.validation_dtype,
            "rows": keys.validation_rows,
            "prompt_family": keys.prompt_family,
            "seed": keys.seed,
            "table": False,
        }

    def _known_start(self, round_: Round) -> dict[str, Any]:
        """The figures of the model that the round before chose: same problems, same settings, no need to repeat."""
        before = self.folder.round_folder(self.folder.rounds[round_.index - 2])
        chosen = read_json(before / "selection.json")["chosen_step"]
        entry = next(c for c in read_json(before / "validation.json")["candidates"] if c["step"] == chosen)
        return entry | {"step": START}

    def _choose(self, round_: Round, start_model: str) -> None:
        schedule = self.config.schedule
        folder = self.folder.round_folder(round_)
        candidates = read_candidates(folder)
        original = read_candidates(self.folder.round_folder(self.folder.rounds[0]))[0]
        reference = pick_reference(original, candidates[0], schedule.tolerance_reference)
        selection = choose(candidates, reference, schedule.tolerance)
        show_selection(round_, candidates, selection)
        entries = [
            {**vars(candidate), "feasible": feasible}
            for candidate, feasible in zip(candidates, selection.feasible, strict=True)
        ]
        record = {
            "limit": round_.limit,
            "start_model": start_model,
            "reference": {"pass_at_1": reference.pass_at_1, "mean_tokens": reference.mean_tokens},
            "tolerance": schedule.tolerance,
            "candidates": entries,
            "chosen_step": selection.chosen_step,
            "reason": selection.reason,
        }
        write_json(folder / "selection.json", record)


def candidate_steps(round_folder: Path) -> list[int]:
    """Steps of the round's whole checkpoints."""
    folders = (path.parent for path in round_folder.glob(f"checkpoint-*/{COMPLETION_MARKER}"))
    return sorted(int(folder.name.removeprefix("checkpoint-")) for folder in folders)


def read_candidates(round_folder: Path) -> list[Candidate]:
    """The round's candidates, its start model first."""
    entries = read_json(round_folder / "validation.json")["candidates"]
    return [Candidate(c["step"], c["pass_at_1"], c["mean_tokens"], c["truncated_share"]) for c in entries]


def show_selection(round_: Round, candidates: list[Candidate], selection: Selection) -> None:
    table = Table(title=f"round {round_.index}, limit {round_.limit} tokens", title_justify="left")
    for column in ("candidate", "pass@1", "mean tokens", "truncated", "feasible", "chosen"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for candidate, feasible in zip(candidates, selection.feasible, strict=True):
        table.add_row(
            "start model" if candidate.step == START else f"step {candidate.step}",
            f"{candidate.pass_at_1:.3f}",
            f"{candidate.mean_tokens:.1f}",
            f"{candidate.truncated_share:.1%}",
            "yes" if feasible else "no",
            "<" if candidate.step == selection.chosen_step else "",
        )
    console.print(table)
    say(f"  {escape(selection.reason)}")


def run_command(command: list[str], log: Path | None = None, quiet: bool = False) -> None:
    """Run a child with our own terminal; end it when we are ended, and end with its exit code when it fails."""
    began = time.monotonic()
    process = subprocess.Popen(command)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code != 0:
        if not quiet:
            look = f"; its log is {log}" if log is not None and log.exists() else ""
            print(f"error: exit code {code} from: {' '.join(command)}{look}", file=sys.stderr, flush=True)
        raise SystemExit(code if code > 0 else 128 - code)
    if not quiet:
        say(f"  [dim]{time.monotonic() - began:.0f} s[/dim]")


def _name(step: int) -> str:
    return "start" if step == START else f"step-{step}"


def _end(signum: int, _: object) -> NoReturn:
    raise SystemExit(128 + signum)


@entry_point
def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    argv, accelerate_config = _take_option(sys.argv[1:], "--accelerate_config")
    if accelerate_config is None:
        raise InputError("command line: --accelerate_config is missing; give a file of configs/accelerate/")
    Driver(read_run_config(argv), argv, accelerate_config).run()


def _take_option(argv: list[str], name: str) -> tuple[list[str], str | None]:
    """`argv` without `name VALUE` (or `name=VALUE`), and the value."""
    for index, word in enumerate(argv):
        if word == name and index + 1 < len(argv):
            return argv[:index] + argv[index + 2 :], argv[index + 1]
        if word.startswith(f"{name}="):
            return argv[:index] + argv[index + 1 :], word.partition("=")[2]
    return argv, None


if __name__ == "__main__":
    main()
