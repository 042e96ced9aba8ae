"""What this program does on one GPU, in at most eight minutes. Nothing is downloaded: the models have random weights.

    bench/gpu.sh [--output outputs/gpu] [--parts training engine …]
    bench/gpu.sh --scale tiny      (models of a few thousand parameters on a CPU: shows that all of it runs)

Parts, in order of worth; each is a process of its own, so that its memory is given back, and must end by the sum of
the budgets up to it. One that fails says so, and the rest goes on. After every part gpu.json and gpu.md are replaced.

- training: a step of `trainers/grpo_len.py` beside bare TRL, Qwen2-1.5B's shape, 16 completions of 4,000 tokens.
  They are drawn at random, not generated: generating is the next part.
- engine: the transformers engine at 64 to 512 rows, with and without captured states.
- live: live pruning against the full vote, wall clock. The judge has random weights and calls all cuts alike, so
  10 traces of each 64 finish: what the rule saves at best, with everything that asking the judge costs.
- large: the engine with Qwen3-8B's shape.
- judge: training the head of an own-state judge.

Seconds are wall clock, after `torch.cuda.synchronize()`. Peaks are torch's own, so the plan is shown without the CUDA
context.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from bench.gpu_parts import PARTS, ROOT, SCALES, Figures, Scale
from secateur.engines.memory import GIB
from secateur.runtime.console import say, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from secateur.runtime.process import entry_point
from secateur.runtime.records import write_record

FORMAT = 1
TOTAL_SECONDS = 480
DISK_BYTES = 8 * GIB  # a model of 1.5B parameters and what its training writes


@dataclass(frozen=True)
class PartResult:
    """What one part found, in wall-clock `seconds`; `failure` says why it did not end, None where it did."""

    name: str
    seconds: float
    rows: tuple[Figures, ...]
    failure: str | None = None


@dataclass(frozen=True)
class GPUReport:
    """gpu.json: the machine and its software in words, and the parts in the order in which they ran."""

    machine: str
    software: str
    scale: str
    parts: tuple[PartResult, ...] = ()


def check_machine(scale: Scale) -> None:
    """Raises `InputError` that names all that is missing, before anything is measured."""
    missing = []
    if scale.device == "cuda" and not torch.cuda.is_available():
        missing.append("a GPU that torch sees (torch.cuda.is_available() is False); --scale tiny runs on a CPU")
    elif scale.device == "cuda" and not torch.cuda.is_bf16_supported():
        missing.append(f"bfloat16: {torch.cuda.get_device_name()} has none")
    if scale.device == "cuda" and shutil.disk_usage(tempfile.gettempdir()).free < DISK_BYTES:
        missing.append(f"{DISK_BYTES // GIB} GiB of free disk in {tempfile.gettempdir()} (TMPDIR)")
    if missing:
        raise InputError("missing: " + "; ".join(missing))


def describe_machine(scale: Scale) -> str:
    if scale.device != "cuda":
        return f"{os.cpu_count()} CPU cores, no GPU used"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {total / GIB:.0f} GiB, {free / GIB:.0f} GiB of them free"


def run_part(name: str, scale: str, seconds: float) -> PartResult:
    """The part in a process of its own, ended after so many seconds together with all that it started."""
    begin = time.perf_counter()
    if seconds <= 0:
        return PartResult(name, 0.0, (), "no time was left for it")
    with tempfile.TemporaryDirectory() as scratch:
        output, log = Path(scratch) / "figures.json", Path(scratch) / "log"
        command = [sys.executable, str(Path(__file__).resolve()), "--part", name, scale, str(output)]
        with log.open("wb") as words:
            process = subprocess.Popen(command, stdout=words, stderr=words, cwd=ROOT)
        try:
            code, why = process.wait(seconds), ""
        except subprocess.TimeoutExpired:
            end_tree(process.pid)
            code, why = process.wait(), f"not done after {seconds:.0f} s; "
        taken = time.perf_counter() - begin
        if code == 0:
            return PartResult(name, taken, tuple(read_json(output)))
        return PartResult(name, taken, (), f"{why}exit code {code}: {log.read_text(errors='replace')[-1500:]}")


def end_tree(pid: int) -> None:
    root = psutil.Process(pid)
    for process in [*root.children(recursive=True), root]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def markdown(report: GPUReport) -> str:
    lines = [f"# One GPU: {report.machine}", "", report.software, ""]
    for part in report.parts:
        lines += [f"## {part.name} ({part.seconds:.0f} s)", ""]
        if part.failure is not None:
            lines += ["failed:", "", *(f"    {line}" for line in part.failure.splitlines()), ""]
            continue
        columns = list(dict.fromkeys(key for row in part.rows for key in row))
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in part.rows]
        lines.append("")
    return "\n".join(lines)


def cell(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return "–" if value is None else f"{value}"


def run_all(options: argparse.Namespace) -> GPUReport:
    scale = SCALES[options.scale]
    software = f"torch {torch.__version__}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}"
    report = GPUReport(describe_machine(scale), software, options.scale)
    begin = time.perf_counter()
    deadline = 0.0
    for name in options.parts:
        deadline += PARTS[name][1]
        left = min(deadline, TOTAL_SECONDS - 20) - (time.perf_counter() - begin)
        result = run_part(name, options.scale, left)
        report = replace(report, parts=(*report.parts, result))
        write_record(options.output / "gpu.json", report, FORMAT)
        write_text(options.output / "gpu.md", markdown(report))
        say(f"{name}: {'failed' if result.failure else 'done'} in {result.seconds:.0f} s")
    return report


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "gpu")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    return parser.parse_args()


@entry_point
def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        name, scale, output = sys.argv[2:]
        silence_libraries()
        use_one_torch_thread()
        write_json(output, PARTS[name][0](SCALES[scale]))
        return
    options = read_options()
    # TRL would use every GPU that it sees
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    check_machine(SCALES[options.scale])
    report = run_all(options)
    print(markdown(report))
    if any(part.failure for part in report.parts):
        raise InputError(f"not all parts ended: {options.output / 'gpu.md'} says why")


if __name__ == "__main__":
    main()
