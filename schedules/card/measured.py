"""What eval/single.py and eval/combined.py measured of a run's final model, as the model card shows it.

Their files are told (`--single`, `--combined`), or found beside the run folder in `single/` and `combined/`. What was
told is kept in the run's card.json, so that cards written later have it as well.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json

_ALWAYS = ("single", "consensus")  # methods of a combined table that are always shown


class Models:
    """Which models of a result file are the run's final model and the one that it started from.

    final: the folder `final/`. original: key `model` of the run. repo_id: where `final/` was pushed. told: name of
    the final model in the file, for files that were made elsewhere.
    """

    def __init__(self, final: Path, original: str, repo_id: str | None = None, told: str | None = None) -> None:
        self.final, self.original, self.repo_id, self.told = final, original, repo_id, told

    def ours(self, models: Mapping[str, str]) -> dict[str, bool]:
        """Name → whether it is the final model, of the names that are it or the original one."""
        found = {name: True for name, path in models.items() if self._is_final(name, path)}
        return {name: False for name, path in models.items() if self._is_original(path)} | found if found else {}

    def _is_final(self, name: str, path: str) -> bool:
        if self.told is not None:
            return name == self.told
        return path == self.repo_id or _same(path, self.final)

    def _is_original(self, path: str) -> bool:
        return path == self.original or _same(path, Path(self.original))


def _same(path: str, folder: Path) -> bool:
    return folder.is_dir() and Path(path).resolve() == folder.resolve()


def read_single(path: Path, models: Models) -> dict[str, Any]:
    """Rows of eval/single.py's summary.json. Raises `InputError` if it does not measure the final model."""
    summary = read_json(path)
    with _readable(path, "summary.json of eval/single.py"):
        config, ours = summary["config"], models.ours(summary["config"]["models"])
        _refuse_strangers(path, ours, config["models"])
        rows = [
            {"ours": final, "benchmark": benchmark, "source": _source(config["problems"], benchmark)}
            | {key: figures[key] for key in _SINGLE_KEYS}
            for name, final in ours.items()
            for benchmark, figures in summary["models"].get(name, {}).items()
        ]
        return {"rows": rows, "words": _settings(config)}


_SINGLE_KEYS = (
    *("problems", "samples", "pass_at_1", "pass_at_1_ci95", "mean_tokens", "mean_tokens_ci95", "truncated_share"),
)


def read_combined(path: Path, models: Models) -> dict[str, Any]:
    """Rows of eval/combined.py's combined.json. Raises `InputError` if it does not measure the final model."""
    combined = read_json(path)
    with _readable(path, "combined.json of eval/combined.py"):
        settings, ours = combined["settings"], models.ours(combined["config"]["models"])
        _refuse_strangers(path, ours, combined["config"]["models"])
        advice = combined.get("recommendation") or {}
        chosen = {*advice.get("frontier_tokens", ()), advice.get("overall")}
        rows = [
            _combined_row(row, ours[row["model"]], settings)
            for row in combined["rows"]
            if row["model"] in ours and (row["method"] in _ALWAYS or row["id"] in chosen)
        ]
        words = [text for text in advice.get("words", ()) if isinstance(text, str)]
        return {"rows": rows, "words": _settings(settings), "advice": words, "called": ours}


def _combined_row(row: Mapping[str, Any], final: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    spent, judge = row["tokens"], row.get("judge")
    keys = ("n", "problems", "accuracy", "accuracy_ci95", "saving_net")
    read = ("generated", "overrun", "judge_prefill", "judge_generated")
    return {
        "ours": final,
        "method": f"{row['method']} ({judge})" if judge else row["method"],
        "benchmark": row.get("benchmark") or str(settings["problems"]),
        "source": _source(settings["problems"], row.get("benchmark")),
        "tokens": sum(spent.get(key, 0) for key in read) / row["problems"],
        **{key: row[key] for key in keys},
    }


def _source(problems: str | Mapping[str, str], benchmark: str | None) -> str | None:
    """Where a benchmark's problems come from, as a config names it."""
    return problems if isinstance(problems, str) else problems.get(benchmark or "")


def _settings(config: Mapping[str, Any]) -> str:
    return f"temperature {config['temperature']}, top-p {config['top_p']}, at most {config['max_tokens']} tokens"


class _readable:
    """Turns a missing or odd entry of a result file into an `InputError` that names the file."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, AttributeError, ZeroDivisionError)):
            raise InputError(f"{self.path}: is no {self.what} ({error!r}); name the right file") from None


def _refuse_strangers(path: Path, ours: Mapping[str, bool], models: Mapping[str, str]) -> None:
    if not ours:
        listed = ", ".join(f"{name} ({folder})" for name, folder in models.items())
        raise InputError(
            f"{path}: measures none of this run's models, but {listed}; name the final one of them with --model"
        )


def find_measurements(run: Path, models: Models) -> dict[str, dict[str, Any]]:
    """The first files beside the run folder that measure its final model: `single` and `combined`, if any."""
    beside = run.resolve().parent
    found = {
        "single": _first(sorted(beside.glob("single/summary.json")), read_single, models),
        "combined": _first(sorted(beside.glob("combined/**/combined.json"), key=_outermost), read_combined, models),
    }
    return {key: value for key, value in found.items() if value is not None}


def _outermost(path: Path) -> tuple[int, str]:
    """A table of several benchmarks comes before those of each."""
    return len(path.parts), str(path)


def _first(paths: Iterable[Path], read: Any, models: Models) -> dict[str, Any] | None:
    for path in paths:
        try:
            return read(path, models)
        except InputError:  # of another model, or of an older form: nobody named it
            continue
    return None
