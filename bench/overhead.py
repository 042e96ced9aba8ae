"""Step time of `trainers/grpo_len.py` against a bare `GRPOTrainer` script with the same settings, side by side.

    python bench/overhead.py [--config configs/demo/thinkprune.yaml] [--steps 24] [--repeats 1] [--key value …]
    python bench/overhead.py --shape qwen2_1.5b --one_by_one --accelerate_config configs/accelerate/zero2.yaml \\
      --limits '[4000]' --use_cpu false --bf16 true --use_vllm true …      (on GPUs)

Every further key is one of the YAML file. The bare script (`train_bare` below) is what TRL's documentation shows:
trainer, dataset, reward function, `train()`. Its reward is TRL's own `accuracy_reward` (math-verify on every
completion) or, to be strict, one that grades nothing. The learning rate is 0 in all of them, so that all sample the
same completions, which is checked. All contenders are loaded at once and take turns, one step each, forwards
and backwards, while the others sleep; `--one_by_one` loads one at a time, where memory is short. `--drawn` draws
completions of the full limit at random in the place of generating them: what is measured is all the rest of a step.
A ratio is taken of the same step of two contenders; shown are medians and quartiles. The first two steps are not
counted.

`step_time` is TRL's own figure (generation, reward, gradient). `wall` is all that happens between two steps, so also
callbacks, logs and checkpoints; `cpu` the processor time of the process and its workers in that time.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS
from trl import GRPOTrainer

from bench.engine import SHAPES, build_model
from schedules.config import read_run_config
from secateur.runtime.config import split_command_line
from secateur.runtime.console import progress, say, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks, entry_point
from trainers import grpo_len
from trainers.grpo.job import RoundJob


class Clock(TrainerCallback):
    """Waits before every step until it is this contender's turn, and reports the step before."""

    address: tuple[str, int]
    name: str

    def __init__(self) -> None:
        self.before = (0.0, 0.0)
        self.metrics: dict[str, float] = {}
        self.line = socket.create_connection(self.address).makefile("rw") if current_ranks().is_main else None

    def tell(self, record: dict[str, Any]) -> None:
        """Send `record` and sleep until the answer comes; the other ranks wait in their next collective."""
        if self.line is not None:
            self.line.write(json.dumps(record) + "\n")
            self.line.flush()
            self.line.readline()
        self.before = (time.perf_counter(), processor_seconds())

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tell({"name": self.name})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.metrics = logs

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            now = (time.perf_counter(), processor_seconds())
            wall, cpu = (later - earlier for later, earlier in zip(now, self.before, strict=True))
            figures = {"wall": wall, "cpu": cpu, "peak_gib": peak_memory()}
            self.tell(figures | {key: self.metrics[key] for key in ("step_time", "completions/mean_length")})


def processor_seconds() -> float:
    """Of this process and those it started."""
    process = psutil.Process()
    times = [process.cpu_times()]
    for child in process.children(recursive=True):
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:
            continue
    return sum(used.user + used.system for used in times)


def peak_memory() -> float:
    """Of the first GPU, without one of the process [GiB]."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return psutil.Process().memory_info().rss / 2**30


class Trainee:
    """`command` with the port of its `Clock` behind it, then `argv`; its output goes to `log`."""

    def __init__(self, name: str, command: list[str], argv: list[str], log: Path) -> None:
        self.name, self.log = name, log
        with socket.create_server(("127.0.0.1", 0)) as server, open(log, "wb") as output:
            command = [*command, str(server.getsockname()[1]), *argv]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            server.settimeout(1.0)
            self.line = self._accept(server).makefile("rw")
        assert self._read() == {"name": name}

    def _accept(self, server: socket.socket) -> socket.socket:
        while self.process.poll() is None:
            try:
                connection = server.accept()[0]
            except TimeoutError:
                continue
            connection.settimeout(None)
            return connection
        raise self._failure()

    def _read(self) -> dict[str, Any]:
        text = self.line.readline()
        if not text:
            raise self._failure()
        return json.loads(text)

    def _failure(self) -> InputError:
        self.process.wait()
        return InputError(f"{self.name} ended with code {self.process.returncode}:\n{self.log.read_text()[-3000:]}")

    def step(self) -> dict[str, float]:
        """Let it take one step; what its `Clock` says of it."""
        self.line.write("go\n")
        self.line.flush()
        return self._read()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


ROOT = Path(__file__).resolve().parent.parent
ARMS = ("secateur", "bare, accuracy_reward", "bare, no grading")
WARM_UP = 2  # steps
FIGURES = ("step_time", "wall", "cpu")
Records = dict[str, list[dict[str, float]]]


def grade_nothing(completions: Sequence[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def train_bare(argv: list[str], graded: bool) -> None:
    """A bare GRPO script on the model, the prompts and the arguments of the schedule's first round."""
    from datasets import Dataset
    from trl.rewards import accuracy_reward

    job = RoundJob(read_run_config(argv), current_ranks().world_size)
    schedule, (round_, *_) = job.config.schedule, job.folder.rounds
    rows = job.rows(round_)
    trainer = GRPOTrainer(
        model=schedule.model,
        reward_funcs=accuracy_reward if graded else grade_nothing,
        args=job.arguments(round_),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"], "solution": row["gold"]} for row in rows]),
        processing_class=job.tokenizer,
    )
    trainer.train()


def draw_completions(
    trainer: GRPOTrainer, prompt_ids: list[list[int]], *_: object, **__: object
) -> tuple[list[list[int]], None]:
    """In the place of `GRPOTrainer._generate_single_turn`: random tokens up to the limit, the same for every arm."""
    tokenizer = trainer.processing_class
    ids = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    chance = torch.Generator().manual_seed(trainer.state.global_step)
    size = (len(prompt_ids), trainer.max_completion_length)
    return ids[torch.randint(len(ids), size, generator=chance)].tolist(), None


def run_arm(name: str, port: str, argv: list[str], drawn: bool) -> None:
    """One contender, in this process."""
    Clock.address, Clock.name = ("127.0.0.1", int(port)), name
    if drawn:
        GRPOTrainer._generate_single_turn = draw_completions
    DEFAULT_CALLBACKS.append(Clock)
    if name == "secateur":
        sys.argv[1:] = argv
        grpo_len.main()
        return
    silence_libraries()
    use_one_torch_thread()
    train_bare(argv, graded=name != "bare, no grading")


def open_contender(name: str, folder: Path, argv: list[str], options: argparse.Namespace) -> Trainee:
    folder.mkdir()
    command = [sys.executable]
    if options.accelerate_config is not None:
        command += [
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            options.accelerate_config,
            "--main_process_port",
            "0",
        ]
    command += [str(Path(__file__).resolve()), "--drawn_arm" if options.drawn else "--arm", name]
    return Trainee(name, command, [*argv, "--output_dir", str(folder / "run")], folder / "log")


def compare(records: Records, name: str, figure: str) -> str:
    """secateur ÷ `name`, step by step: median (lower quartile to upper quartile)."""
    pairs = zip(records["secateur"], records[name], strict=True)
    ratios = [ours[figure] / theirs[figure] for ours, theirs in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"**{middle:.3f}** ({low:.3f} to {high:.3f})"


def report(records: Records) -> None:
    """Markdown for bench/RESULTS.md."""
    print(f"| | {' | '.join(f'{figure} [s]' for figure in FIGURES)} | tokens per completion | peak [GiB] |")
    print("|---|---|---|---|---|---|")
    for name, steps in records.items():
        medians = [f"{statistics.median(step[figure] for step in steps):.3f}" for figure in FIGURES]
        tokens = statistics.mean(step["completions/mean_length"] for step in steps)
        print(f"| {name} | {' | '.join(medians)} | {tokens:.1f} | {max(step['peak_gib'] for step in steps):.2f} |")
    for name in list(records)[1:]:
        cells = " | ".join(compare(records, name, figure) for figure in FIGURES)
        print(f"| secateur ÷ {name} | {cells} | | |")


def check_same_work(records: Records) -> None:
    if len({tuple(step["completions/mean_length"] for step in steps) for steps in records.values()}) > 1:
        say("note: the contenders did not sample the same completions, so their times are not those of the same work")


def run_steps(contenders: list[Trainee], steps: int, records: Records) -> None:
    """`steps` steps of each, in turn; the last step of a training cannot be timed, so one more must be planned."""
    for step in range(steps):
        for contender in contenders if step % 2 == 0 else contenders[::-1]:
            record = contender.step()
            if step >= WARM_UP:
                records[contender.name].append(record)


def read_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/demo/thinkprune.yaml")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one_by_one", action="store_true", help="load one contender at a time")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--drawn", action="store_true", help="random completions of the full limit, none generated")
    parser.add_argument("--shape", choices=sorted(SHAPES))
    parser.add_argument("--accelerate_config")
    parser.add_argument("--output", type=Path, help="also keep every record here (JSON)")
    options, overrides = parser.parse_known_args()
    split_command_line(overrides)
    if options.arms[0] != ARMS[0]:
        raise InputError(f"--arms begins with {ARMS[0]}, with which the others are compared")
    if options.repeats < 1 or options.steps <= WARM_UP + 1:
        raise InputError(f"--repeats must be at least 1 and --steps more than {WARM_UP + 1}")
    return options, overrides


def measure(options: argparse.Namespace, overrides: list[str], scratch: Path) -> Records:
    argv = ["--config", options.config, "--steps_per_round", str(options.steps + 1), "--learning_rate", "0.0"]
    argv += ["--save_steps", str(options.steps + 1), *overrides]
    if options.shape is not None:
        argv += ["--model", str(build_model(options.shape, scratch / "model"))]
    records: Records = {name: [] for name in options.arms}
    with progress("overhead", options.repeats * len(options.arms)) as bar:
        for repeat in range(options.repeats):
            for names in [[name] for name in options.arms] if options.one_by_one else [options.arms]:
                opened: list[Trainee] = []
                try:
                    for name in names:
                        folder = scratch / f"{repeat}-{ARMS.index(name)}"
                        opened.append(open_contender(name, folder, argv, options))
                    run_steps(opened, options.steps, records)
                finally:
                    for contender in opened:
                        contender.close()
                bar.advance(len(names))
    return records


@entry_point
def main() -> None:
    if sys.argv[1:2] in (["--arm"], ["--drawn_arm"]):
        run_arm(sys.argv[2], sys.argv[3], sys.argv[4:], drawn=sys.argv[1] == "--drawn_arm")
        return
    options, overrides = read_options()
    with tempfile.TemporaryDirectory() as scratch:
        records = measure(options, overrides, Path(scratch))
    if options.output is not None:
        options.output.write_text(json.dumps(records), encoding="utf-8")
    check_same_work(records)
    report(records)


if __name__ == "__main__":
    main()
