"""Accuracy and tokens over the settings of the pruning rule, replayed on the traces and scores of a combined run.

    python eval/rule_sweep.py --config configs/demo/rule_sweep.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/rule_sweep.py --config …

No model runs: every rule is replayed on what eval/combined.py stored (tau is the published τ, max_clusters K,
compared K1, largest K2, singletons K3; any other value of secateur/deepprune/rule.py can be swept as well). Can be
killed and started again; cells that are done are not computed twice."""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from eval.studies.rule_sweep import FIXED, RuleSweep, StoredCells, gather, load_run, rules_to_try, write_rule_sweep
from eval.studies.rule_sweep_report import print_rule_sweep, write_plot, write_rows
from eval.table.pruning import changed_rule
from eval.traces.sampling import hold_output, wait_for_all_processes
from secateur.deepprune.rule import PruneRule
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks, entry_point


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
        rules_to_try(changed_rule(PruneRule(), self.fixed, FIXED), self.sweep, self.grid)


def run_sweep(config: RuleSweepConfig) -> RuleSweep | None:
    """Compute what is missing, write all results and return them (main process; None elsewhere)."""
    run = load_run(
        config.run,
        model=config.model,
        judge=config.judge,
        fixed=config.fixed,
        orders=config.orders,
        draws=config.draws,
    )
    rules, folder = rules_to_try(run.rule, config.sweep, config.grid), Path(config.output_dir)
    stored = StoredCells(folder, run)
    stored.compute(rules)
    wait_for_all_processes()
    if not current_ranks().is_main:
        return None
    sweep = gather(run, rules, stored, asdict(config))
    write_rule_sweep(folder, sweep)
    write_rows(sweep, folder / "sweep.csv")
    write_plot(sweep, folder / "sweep.png")
    return sweep


@entry_point
def main() -> None:
    config = parse_config(RuleSweepConfig)
    with hold_output(config.output_dir):
        sweep = run_sweep(config)
    if sweep is not None:
        print_rule_sweep(sweep)
        say(f"results: {escape(str(Path(config.output_dir) / 'sweep.json'))}, sweep.csv, sweep.png")


if __name__ == "__main__":
    main()
