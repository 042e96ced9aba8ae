"""Accuracy and tokens over the settings of the pruning rule, replayed on the traces and scores of a combined run.

    python eval/rule_sweep.py --config configs/demo/rule_sweep.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/rule_sweep.py --config …

No model runs: every rule is replayed on what eval/combined.py stored (tau is the paper's τ, max_clusters K, compared
K1, largest K2, singletons K3; any other field of secateur/deepprune/clustering.py and secateur/deepprune/finish.py
can be swept as well). Can be killed and started again; cells that are done are not computed twice."""

import dataclasses
import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from eval.studies.rule_sweep import (
    against_default,
    cells,
    consensus_curve,
    full_consensus,
    mark_front,
    measure,
)
from eval.studies.rule_sweep_report import print_sweep, write_csv, write_plot
from eval.table.assemble import ModelTraces
from eval.table.config import CombinedConfig
from eval.table.method import Parameters
from eval.table.problems import ReplayProblem
from eval.table.rules import changed_rule, flat_rule
from eval.traces.sampling import wait_for_all_processes
from secateur.deepprune.rule import PruneRule
from secateur.runtime.config import check_types, parse_config
from secateur.runtime.console import console, progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_json, read_jsonl, repair_torn_tail, write_json
from secateur.runtime.process import entry_point
from secateur.runtime.ranks import current_ranks
from secateur.tasks.sources import load_problems

FIXED = "key 'fixed'"


@dataclass(kw_only=True)
class RuleSweepConfig:
    """What is tried on which run.

    run: output folder of a finished eval/combined.py that had `deepprune` among its methods.
    output_dir: gets cells, sweep.json, sweep.csv and sweep.png.
    sweep: field of the rule → values to try.
    fixed: field of the rule → another value than the run's, in all cells.
    grid: every combination of the values instead of one key at a time.
    model, judge: by default the run's base model and its first judge (as named in combined.json).
    orders, draws: as in eval/combined.py; by default those of the run.
    """

    run: str
    output_dir: str
    sweep: dict[str, list[Any]]
    fixed: dict[str, Any] = field(default_factory=dict)
    grid: bool = False
    model: str | None = None
    judge: str | None = None
    orders: int | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        for key in ("orders", "draws"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")
        if not self.sweep or not all(self.sweep.values()):
            raise InputError(
                "key 'sweep' names nothing to try; give at least one field with values: {tau: [0.4, 0.6]}"
            )
        for key in self.fixed.keys() & self.sweep.keys():
            raise InputError(f"key '{key}' is in 'fixed' and in 'sweep'; leave it in one of them")
        # every value is one that a rule can have
        cells(changed_rule(PruneRule(), self.fixed, FIXED), self.sweep, self.grid)


@dataclass(frozen=True)
class StoredRun:
    """The part of a combined run that is swept."""

    model: str
    judge: str
    records: list[ReplayProblem]
    parameters: Parameters
    rule: PruneRule
    orders: int
    draws: int
    n: int


def load_run(config: RuleSweepConfig) -> StoredRun:
    """Traces, scores and settings of the run; `InputError` if it is unfinished or lacks the model or judge."""
    path = Path(config.run) / "combined.json"
    if not path.is_file():
        raise InputError(
            f"key 'run' has the value '{config.run}': no combined.json there; finish eval/combined.py first"
        )
    stored = check_types(CombinedConfig, read_json(path)["config"], str(path))
    if isinstance(stored["problems"], dict):
        folders = ", ".join(str(Path(config.run) / name) for name in stored["problems"])
        raise InputError(
            f"key 'run' has the value '{config.run}', a run on named benchmarks; give the folder of one: {folders}"
        )
    run = CombinedConfig(**stored | {"output_dir": config.run})
    if not run.prunes:
        raise InputError(f"{path}: 'deepprune' was not among its methods, so there are no scores to replay")
    model = config.model or run.base
    if model not in run.models:
        raise InputError(f"key 'model' has the value '{model}'; the run has {', '.join(run.models)}")
    records = ModelTraces(run, model, load_problems(run.problems, run.problem_count, run.seed)).replay_model()
    judge = config.judge or records.pruned_by[0]
    if judge not in records.judged:
        raise InputError(f"key 'judge' has the value '{judge}'; the run's judges are {', '.join(records.judged)}")
    return StoredRun(
        model=model,
        judge=judge,
        records=records.judged[judge],
        parameters=Parameters(records.parameters, records.judge_parameters[judge]),
        rule=changed_rule(run.rule, config.fixed, FIXED),
        orders=config.orders or run.orders,
        draws=config.draws or run.draws,
        n=run.largest_n,
    )


def sweep_settings(config: RuleSweepConfig, run: StoredRun) -> dict[str, Any]:
    """What stored cells must have been computed with."""
    content = (Path(config.run) / "combined.json").read_bytes()
    return {
        "run": hashlib.sha256(content).hexdigest()[:16],
        "model": run.model,
        "judge": run.judge,
        "orders": run.orders,
        "draws": run.draws,
    }


class Cells:
    """The cells on disk: `cells-rank<r>.jsonl`, one line each, and the settings they belong to."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        path = folder / "settings.json"
        stored = read_json(path) if path.is_file() else settings
        for key in settings:
            if stored.get(key) != settings[key]:
                raise InputError(
                    f"{folder}: its cells have {key} = {stored.get(key)!r}, this sweep has {settings[key]!r}; "
                    "give another 'output_dir', or delete the folder"
                )

    def read(self) -> list[dict[str, Any]]:
        return [row for path in sorted(self.folder.glob("cells-rank*.jsonl")) for _, row in read_jsonl(path)]

    def compute(self, run: StoredRun, rules: list[PruneRule]) -> None:
        """This process's share of the cells that are missing."""
        path = self.folder / f"cells-rank{current_ranks().rank}.jsonl"
        repair_torn_tail(path)
        if current_ranks().is_main:
            write_json(self.folder / "settings.json", self.settings)
        done = [row["rule"] for row in self.read()]
        todo = [rule for rule in current_ranks().shard(rules) if flat_rule(rule) not in done]
        if not todo:
            return
        full = full_consensus(run.records)
        with progress(f"rules{current_ranks().note}", len(todo)) as shown:
            for rule in todo:
                row = measure(run.records, rule, full, run.parameters, run.orders, run.draws)
                append_jsonl(path, [row])
                shown.advance(note=f"accuracy {row['accuracy']:.3f} · net saving {row['saving_net']:.1%}")


def run_sweep(config: RuleSweepConfig) -> dict[str, Any] | None:
    """Compute what is missing, write all results and return them (main process; None elsewhere)."""
    run = load_run(config)
    rules, folder = cells(run.rule, config.sweep, config.grid), Path(config.output_dir)
    stored = Cells(folder, sweep_settings(config, run))
    stored.compute(run, rules)
    wait_for_all_processes()
    if not current_ranks().is_main:
        return None
    found = {tuple(row["rule"].items()): row for row in stored.read()}
    rows = [found[tuple(flat_rule(rule).items())] for rule in rules]
    mark_front(rows)
    against_default(rows)
    full = full_consensus(run.records)
    result = {
        "rows": rows,
        "model": run.model,
        "judge": run.judge,
        "n": run.n,
        "problems": len(run.records),
        "consensus": {"accuracy": sum(full.accuracies) / len(run.records), "tokens": full.tokens},
        "fewer_full_traces": consensus_curve(run.records, run.draws),
        "default": flat_rule(run.rule),
        "orders": run.orders,
        "draws": run.draws,
        "config": asdict(config),
        "parameters": dataclasses.asdict(run.parameters),
    }
    write_json(folder / "sweep.json", result)
    write_csv(result, folder / "sweep.csv")
    write_plot(result, folder / "sweep.png")
    return result


@entry_point
def main() -> None:
    config = parse_config(RuleSweepConfig)
    result = run_sweep(config)
    if result is not None:
        print_sweep(result, console)
        say(f"results: {escape(str(Path(config.output_dir) / 'sweep.json'))}, sweep.csv, sweep.png")


if __name__ == "__main__":
    main()
