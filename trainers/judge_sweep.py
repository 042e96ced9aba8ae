"""How good can a judge be at which cut? AUROC and TNR over k, with and without focal loss and oversampling.

    python trainers/judge_sweep.py --config configs/demo/judge_sweep.yaml
    accelerate launch --config_file configs/accelerate/zero2.yaml trainers/judge_sweep.py --config …

The traces are collected once, at the largest k; every cell (cut, loss, oversampling, seed) trains a judge of its own
on the same problems and is measured on the same test pairs. A cell that is done is not trained again, so the sweep
can be killed, started again and extended. Run it once more when all cells are done to get the table alone.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.markup import escape

from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.record import METRICS_FILE
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import has_content, hold_folder, read_arrays, read_json, write_json
from secateur.runtime.process import current_ranks, entry_point
from trainers.judges.config import FREE_KEYS
from trainers.judges.figures import PairColumns, cut_figures
from trainers.judges.trainee import scored_part, split_scores
from trainers.judges.training import finish_publishing, make_judge, publish
from trainers.sweep.config import CutAgain, JudgeSweepConfig, SweepCell
from trainers.sweep.report import print_sweep, write_plot, write_sweep_csv
from trainers.sweep.summary import (
    SWEEP_FILE,
    CellFigures,
    CellRecord,
    CellResult,
    Sweep,
    make_sweep,
    read_cell,
    write_cell,
    write_sweep,
)

_SCORES_FILE = "scores.npz"


def claim_folder(config: JudgeSweepConfig) -> None:
    """Raises `InputError` if the folder holds cells of another sweep."""
    path, values = Path(config.output_dir) / "settings.json", config.common()
    bound = path.is_file() and has_content(config.output_dir, f"cells/*/{METRICS_FILE}")
    stored = read_json(path) if bound else values
    for key in sorted((stored.keys() | values.keys()) - FREE_KEYS):
        if stored.get(key) != values.get(key):
            raise InputError(
                f"{config.output_dir}: its cells have {key} = {stored.get(key)!r}, this sweep has "
                f"{values.get(key)!r}; give another 'output_dir', or delete the folder"
            )


def is_done(config: JudgeSweepConfig, cell: SweepCell) -> bool:
    return (Path(config.of_cell(cell).output_dir) / METRICS_FILE).is_file()


def train_cell(config: JudgeSweepConfig, cell: SweepCell, data: JudgeData) -> CellRecord:
    """Train and measure one cell; its folder gets scores.npz and, when all is done, metrics.json."""
    own = config.of_cell(cell)
    folder = Path(own.output_dir)
    set_seed(cell.seed)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    judge, training = make_judge(own, data, accelerator)
    figures, columns = {}, {}
    for name, everything in data.tests.items():
        # Drawn by the sweep's own seed: the same pairs in every cell.
        problems = scored_part(config, everything, config.test_pairs)
        scores = split_scores(judge, problems)
        figures[name] = figures_of_test(problems, scores)
        columns |= {f"{name}/{key}": values for key, values in score_columns(problems, scores).items()}
    found = CellRecord(kind=config.kind, cell=cell, tests=figures, training=training, config=own.to_json())
    if accelerator.is_main_process:
        save_scores(folder / _SCORES_FILE, columns)
        if not config.keep_judges:
            shutil.rmtree(folder / "best")
            (folder / "best").mkdir()
        write_cell(folder / "best", found)
        publish(folder)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return found


def score_columns(problems: Sequence[LabelledProblem], scores: np.ndarray) -> dict[str, np.ndarray]:
    """What figures are made from, [pairs] each."""
    columns = PairColumns(problems)
    return {
        "labels": columns.labels,
        "problem": columns.problem,
        "unfinished": columns.unfinished,
        "scores": scores,
    }


def figures_of_test(problems: Sequence[LabelledProblem], scores: np.ndarray) -> CellFigures:
    """The judge's figures over all and over unfinished pairs, and what the cuts look like."""
    columns = PairColumns(problems)
    return CellFigures(
        **vars(columns.figures(scores)),
        **vars(cut_figures(problems)),
        unfinished=columns.figures(scores, columns.unfinished),
    )


def save_scores(path: Path, columns: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(temporary, **columns)
    temporary.replace(path)


def cells_with_data(config: JudgeSweepConfig, todo: list[SweepCell]) -> Iterator[tuple[SweepCell, JudgeData]]:
    """Each cut's data is made once, for all of its cells."""
    source = CutAgain(config.of_cell(todo[0]))
    for rule, cells in itertools.groupby(todo, key=lambda cell: cell.rule):
        data = source.at(rule)
        for cell in cells:
            yield cell, data


def train_missing(config: JudgeSweepConfig) -> None:
    cells = config.cells()
    missing = [cell for cell in cells if not is_done(config, cell)]
    todo, began = missing[: config.cells_per_launch], time.monotonic()
    if not todo:
        return
    for done, (cell, data) in enumerate(cells_with_data(config, todo), start=1):
        if done == 1 and current_ranks().is_main:  # only now: input that does not fit leaves no folder behind
            write_json(Path(config.output_dir) / "settings.json", config.common())
        found = train_cell(config, cell, data)
        left = (time.monotonic() - began) / done * (len(todo) - done) / 60
        figures = ", ".join(f"{name} {_figure(test.unfinished.auroc)}" for name, test in found.tests.items())
        say(
            f"[{len(cells) - len(missing) + done}/{len(cells)}] {cell.name}: AUROC of unfinished pairs: {figures} "
            f"({left:.0f} min left)"
        )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def run(config: JudgeSweepConfig) -> Sweep | None:
    """Train what is missing; the main process then writes and returns the results of the cells that are done."""
    claim_folder(config)
    if current_ranks().is_main:
        for cell in config.cells():
            finish_publishing(Path(config.of_cell(cell).output_dir))
    train_missing(config)
    if not current_ranks().is_main:
        return None
    folder, cells = Path(config.output_dir), config.cells()
    results = [_result(folder / "cells" / cell.name) for cell in cells if is_done(config, cell)]
    sweep = make_sweep(config.kind, results, config.to_json(), missing_cells=len(cells) - len(results))
    write_sweep(folder, sweep)
    write_sweep_csv(sweep, folder / "sweep.csv")
    write_plot(sweep, folder / "sweep.png")
    return sweep


def _result(folder: Path) -> CellResult:
    scores = read_arrays(folder / _SCORES_FILE, f"delete {folder} to train the cell again")
    return CellResult(read_cell(folder), scores)


@entry_point
def main() -> None:
    silence_libraries()
    config = parse_config(JudgeSweepConfig)
    use_one_torch_thread()
    with hold_folder(config.output_dir) if current_ranks().is_main else nullcontext():
        sweep = run(config)
    if sweep is not None:
        print_sweep(sweep, console)
        say(f"results: {escape(str(Path(config.output_dir) / SWEEP_FILE))}, sweep.csv, sweep.png")


if __name__ == "__main__":
    main()
