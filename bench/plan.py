"""The plan against what a run came to: what its first round alone would have foretold of training and validation.

    python bench/plan.py outputs/demo/thinkprune outputs/real/thinkprune

Each run folder holds a finished schedule. The plan is made as `--dry_run true` makes it after the first round, from
the figures of that round (trainers/dry_run/hours.py); reality is the time between the logged steps of all rounds, and
what the validations have sampled. Memory and disk are in bench/RESULTS.md, from runs of a few steps.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from schedules.records import SELECTION, VALIDATION, read_selection
from secateur.runtime.console import plain_table, print_table
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from trainers.dry_run.hours import measured_training, trained_rounds, trained_share, validated_length


def first_round(run: Path, folder: Path) -> Path:
    """A run folder that holds what the first round of `run` has logged and chosen."""
    names = sorted(path.parent for path in run.glob(f"rounds/*/{SELECTION}"))
    if len(names) < 2:
        raise InputError(f"{run}: has not chosen in two rounds; name the output_dir of a finished schedule")
    for name in ("train.jsonl", SELECTION, VALIDATION):
        target = folder / "rounds" / names[0].name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(names[0] / name, target)
    return folder


def training(run: Path, known: Path) -> tuple[float, float]:
    """Seconds of all steps, as foretold from the rounds of `known` and as they were."""
    rounds = list(trained_rounds(run))
    share, speed = trained_share(known), measured_training(known, 1)
    assert share is not None and speed is not None
    foretold = sum(share * line["limit"] for lines in rounds for line in lines) / speed.tokens_per_second
    # The time of a round's first step is not logged: it takes as long as the others.
    real = sum((lines[-1]["time"] - lines[0]["time"]) * len(lines) / (len(lines) - 1) for lines in rounds)
    return foretold, real


def validation(run: Path, known: Path) -> tuple[float, float]:
    """Mean tokens of a validated sample over all rounds, as foretold and as they were."""
    records = [read_selection(path.parent) for path in sorted(run.glob(f"rounds/*/{SELECTION}"))]
    checkpoints = [len(record.candidates) - 1 for record in records]
    foretold, real = (validated_length(folder, checkpoints) for folder in (known, run))
    assert foretold is not None and real is not None
    return foretold, real


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(prog="python bench/plan.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="output_dir of finished schedules")
    table = plain_table("plan ÷ reality", ("run", "training, s", "ratio", "validated sample, tokens", "ratio"))
    for run in parser.parse_args().runs:
        with tempfile.TemporaryDirectory() as folder:
            known = first_round(run, Path(folder))
            pairs = training(run, known), validation(run, known)
        cells = [text for plan, real in pairs for text in (f"{plan:,.0f} / {real:,.0f}", f"{plan / real:.2f}")]
        table.add_row(str(run), *cells)
    print_table(table)


if __name__ == "__main__":
    main()
