"""The rows of several finished combined runs in one table, if they were made with the same settings.

    python eval/joined.py --runs [outputs/demo/combined/linear_own_states, outputs/demo/combined/pairwise]

For judges or models that were run apart. Rows with other settings are refused, and so are two rows of one name whose
figures differ: those were made by different models or from different traces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from eval.table.csv import rows_as_csv
from eval.table.settings import check_joinable, table_settings
from eval.table.terminal import print_results
from eval.traces.benchmarks import sources_of
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_text
from secateur.runtime.process import entry_point

Identity = tuple[Any, ...]
_FIGURES = ("accuracy", "tokens", "saving_net")


@dataclass(kw_only=True)
class JoinedConfig:
    """runs: output folders of eval/combined.py, each with its combined.json.
    csv: a file that gets the rows as well.
    """

    runs: list[str]
    csv: str | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("key 'runs' is empty; name the output folders of eval/combined.py")
        for run in self.runs:
            if not (Path(run) / "combined.json").is_file():
                raise InputError(f"key 'runs' names '{run}': no combined.json there; finish eval/combined.py first")


def join(paths: list[Path]) -> dict[str, Any]:
    """What `print_results` shows of all runs: their rows and differences, each once. Raises `InputError` for rows
    that do not belong together."""
    runs = [(str(path), read_json(path)) for path in paths]
    check_joinable([(where, _settings(run)) for where, run in runs])
    _check_same_base(runs)
    rows: dict[Identity, dict[str, Any]] = {}
    differences: dict[Identity, dict[str, Any]] = {}
    for where, run in runs:
        alone = {"benchmark": run["rows"][0].get("benchmark", _lone_benchmark(run))}
        for row in (alone | row for row in run["rows"]):
            _check_same_row(rows.setdefault(_identity(row), row), row, where)
        for difference in (alone | {"n": run["rows"][0]["n"]} | difference for difference in run["differences"]):
            differences.setdefault(tuple(difference[key] for key in ("benchmark", "n", "label")), difference)
    return {
        "rows": _in_order(list(rows.values())),
        "differences": list(differences.values()),
        "live_equals_replay": None,
        "live": None,
        "config": runs[0][1]["config"],
    }


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By benchmark and model as they come first, the largest n before the others."""
    benchmarks, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("benchmark", "model"))
    return sorted(rows, key=lambda row: (benchmarks.index(row["benchmark"]), -row["n"], models.index(row["model"])))


def _lone_benchmark(run: dict[str, Any]) -> str:
    """A run from before there were several does not name its own."""
    return next(iter(sources_of(run["config"]["problems"])))


def _settings(run: dict[str, Any]) -> dict[str, Any]:
    """A run from before the settings stood apart has them in its config, without the grader."""
    return run.get("settings") or table_settings(run["config"])


def _identity(row: dict[str, Any]) -> Identity:
    return tuple(row[key] for key in ("benchmark", "n", "model", "method", "judge"))


def _check_same_base(runs: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Raise `InputError` unless all savings are held against the vote of one model."""
    bases = [(where, next(iter(run["config"]["models"]))) for where, run in runs]
    for where, base in bases[1:]:
        if base != bases[0][1]:
            raise InputError(
                f"{where}: its savings are held against the model '{base}', those of {bases[0][0]} against "
                f"'{bases[0][1]}'; leave it out, or make it again with the same model first in key 'models'"
            )


def _check_same_row(one: dict[str, Any], other: dict[str, Any], where: str) -> None:
    name = "/".join(part for part in (other["model"], other["method"], other["judge"]) if part)
    for key in _FIGURES:
        if one[key] != other[key]:
            raise InputError(
                f"{where}, {other['benchmark']} with n = {other['n']}: the row '{name}' has {key} {other[key]}, in "
                f"another of the runs {one[key]}, so it is not the same; leave one of the runs out, or give its "
                "model another name in key 'models'"
            )


@entry_point
def main() -> None:
    config = parse_config(JoinedConfig)
    joined = join([Path(run) / "combined.json" for run in config.runs])
    print_results(joined, console)
    if config.csv:
        write_text(config.csv, rows_as_csv(joined["rows"]))
        say(f"rows: {escape(config.csv)}")


if __name__ == "__main__":
    main()
