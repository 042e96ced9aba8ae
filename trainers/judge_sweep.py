"""How good can a judge be at which cut? AUROC and TNR over k, with and without focal loss and oversampling.

    python trainers/judge_sweep.py --config configs/demo/judge_sweep.yaml
    accelerate launch --config_file configs/accelerate/zero2.yaml trainers/judge_sweep.py --config …

The traces are collected once, at the largest k; every cell (cut, loss, oversampling, seed) trains a judge of its own
on the same problems and is measured on the same test pairs. A cell that is done is not trained again, so the sweep
can be killed, started again and extended. Run it once more when all cells are done to get the table alone.
"""

import dataclasses
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.markup import escape

from secateur.deepprune.judges import metrics
from secateur.deepprune.judges.pairs import JudgedProblem, all_labels
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json
from secateur.runtime.process import entry_point
from secateur.runtime.ranks import current_ranks
from trainers.judge import publish, take_as_it_is, train
from trainers.judges.config import FREE_KEYS
from trainers.judges.data import JudgeData
from trainers.judges.kinds import pair_scores, score_shards, thin_pairs
from trainers.sweep.config import Cell, JudgeSweepConfig
from trainers.sweep.cuts import CutAgain
from trainers.sweep.report import make_sweep, print_sweep, write_csv, write_plot


def claim_folder(config: JudgeSweepConfig) -> None:
    """Raises `InputError` if the folder holds cells of another sweep."""
    path = Path(config.output_dir) / "settings.json"
    stored, values = (read_json(path) if path.is_file() else config.common()), config.common()
    for key in sorted((stored.keys() | values.keys()) - FREE_KEYS):
        if stored.get(key) != values.get(key):
            raise InputError(
                f"{config.output_dir}: its cells have {key} = {stored.get(key)!r}, this sweep has "
                f"{values.get(key)!r}; give another 'output_dir', or delete the folder"
            )


def is_done(config: JudgeSweepConfig, cell: Cell) -> bool:
    return (Path(config.of_cell(cell).output_dir) / "metrics.json").is_file()


def train_cell(config: JudgeSweepConfig, cell: Cell, data: JudgeData) -> dict[str, Any]:
    """Train and measure one cell; its folder gets scores.npz and, when all is done, metrics.json."""
    own = config.of_cell(cell)
    folder = Path(own.output_dir)
    set_seed(cell.seed)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    judge, training = (train if own.epochs else take_as_it_is)(own, data, accelerator)
    figures, scores = {}, {}
    for name, problems in data.tests.items():
        if config.kind == "pairwise":  # by the sweep's own seed: the same pairs in every cell
            problems = thin_pairs(problems, config.test_pairs, config.seed)
        columns = pair_columns(problems)
        columns["scores"] = np.concatenate(score_shards(problems, lambda problem: pair_scores(judge, problem)))
        scores |= {f"{name}/{key}": values for key, values in columns.items()}
        figures[name] = figures_of_test(problems, columns)
    found = {"kind": config.kind, "cell": dataclasses.asdict(cell), "tests": figures, "training": training}
    if accelerator.is_main_process:
        save_scores(folder / "scores.npz", scores)
        if not config.keep_judges:
            shutil.rmtree(folder / "best")
            (folder / "best").mkdir()
        publish(folder, found | {"config": dataclasses.asdict(own)})
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return found


def pair_columns(problems: Sequence[JudgedProblem]) -> dict[str, np.ndarray]:
    """Labels, problem numbers and unfinished marks of all pairs in one row, [pairs] each."""
    return {
        "labels": all_labels(problems),
        "problem": np.repeat(np.arange(len(problems)), [len(entry.pairs) for entry in problems]),
        "unfinished": np.concatenate([entry.pairs.unfinished for entry in problems]),
    }


def figures_of_test(problems: Sequence[JudgedProblem], columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """The judge's figures over all and over unfinished pairs, and what the cuts look like (shares 0-1)."""
    labels, scores, problem = (columns[key] for key in ("labels", "scores", "problem"))
    unfinished = columns["unfinished"]
    shares = [share for entry in problems for share in entry.cut_shares]
    return metrics.summary(labels, scores, problem) | {
        "unfinished": metrics.summary(labels[unfinished], scores[unfinished], problem[unfinished]),
        "whole_cut_share": float(np.mean([whole for entry in problems for whole in entry.whole])),
        "median_cut_share": float(np.median(shares)),
        "mean_cut_tokens": float(np.mean([len(cut.token_ids) for entry in problems for cut in entry.cuts])),
    }


def save_scores(path: Path, columns: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(temporary, **columns)
    temporary.replace(path)


def cells_with_data(config: JudgeSweepConfig, todo: list[Cell]) -> Iterator[tuple[Cell, JudgeData]]:
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
        figures = ", ".join(f"{name} {_figure(test['unfinished']['auroc'])}" for name, test in found["tests"].items())
        say(
            f"[{len(cells) - len(missing) + done}/{len(cells)}] {cell.name}: AUROC of unfinished pairs: {figures} "
            f"({left:.0f} min left)"
        )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def run(config: JudgeSweepConfig) -> dict[str, Any] | None:
    """Train what is missing; the main process then writes and returns the results of the cells that are done."""
    claim_folder(config)
    train_missing(config)
    if not current_ranks().is_main:
        return None
    done = [cell for cell in config.cells() if is_done(config, cell)]
    folder = Path(config.output_dir)
    entries = []
    for cell in done:
        path = folder / "cells" / cell.name
        with np.load(path / "scores.npz") as scores:
            entries.append((read_json(path / "metrics.json"), dict(scores)))
    sweep = make_sweep(config.kind, entries) | {"config": dataclasses.asdict(config)}
    sweep["missing_cells"] = len(config.cells()) - len(done)
    write_json(folder / "sweep.json", sweep)
    write_csv(sweep, folder / "sweep.csv")
    write_plot(sweep, folder / "sweep.png")
    return sweep


@entry_point
def main() -> None:
    silence_libraries()
    config = parse_config(JudgeSweepConfig)
    use_one_torch_thread()
    sweep = run(config)
    if sweep is not None:
        print_sweep(sweep, console)
        say(f"results: {escape(str(Path(config.output_dir) / 'sweep.json'))}, sweep.csv, sweep.png")


if __name__ == "__main__":
    main()
