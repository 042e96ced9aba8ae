"""The tables of docs/which_method.md: every method and judge over n, on two benchmarks, with the models of a demo.

    make demo && make demo JUDGE=linear && make demo JUDGE=pairwise
    python bench/which_method.py --demo outputs/demo --output_dir outputs/which_method [--tables_only]

Two runs of eval/combined.py with n = 8, 16, 32, 64: `arithmetic` takes up the traces and scores that the demo stored,
`contested` are 84 problems by the rules that the base model recalls in less than half of its traces. Judges that the
demo does not have are left out; the pairwise judge is asked on `arithmetic` only, where the demo asked it already.
Writes `<output_dir>/tables.md`. Can be killed and started again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from eval.table.labels import judge_label
from eval.table.registry import method_label, method_of
from eval.table.votes import EQUAL_TOKENS
from secateur.deepprune.judges.registry import DEFAULT
from secateur.deepprune.judges.untrained import RANDOM, TFIDF, VALUES
from secateur.results import TABLE_FILE, Row, read_table
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from secateur.runtime.process import end_with_parent, entry_point
from secateur.tasks.arithmetic import RULES, make_problems

REPOSITORY = Path(__file__).resolve().parent.parent
OWN = DEFAULT.name
SIZES = (8, 16, 32, 64)
WITHOUT_TRAINING = (RANDOM.name, VALUES.name, TFIDF.name)
CONTESTED = [rule.name for rule in RULES if rule.share < 0.5]
_PROBLEMS = 84  # twelve of each rule
_SEED = 1  # other problems than those of the demo


def demo_models(demo: Path) -> dict[str, str]:
    """Name → folder. Raises `InputError` for a demo that is not finished."""
    if not (demo / "combined" / OWN / TABLE_FILE).is_file():
        raise InputError(f"--demo {demo}: no finished demo there; run make demo first")
    return {"base": "trainers/embedded_model", "pruned": str(demo / "thinkprune" / "final")}


def demo_judges(demo: Path, models: Iterable[str], kinds: Iterable[str]) -> dict[str, list[str]]:
    """Model → the trained judges that the demo has of it, then the untrained ones."""
    folders = {model: [demo / "judges" / kind / model for kind in kinds] for model in models}
    return {
        model: [*(str(path) for path in paths if (path / "judge.json").is_file()), *WITHOUT_TRAINING]
        for model, paths in folders.items()
    }


def take_up(demo: Path, folder: Path, models: Iterable[str]) -> None:
    """Copy what the demo stored for its own problems, unless the folder has it."""
    for model in models:
        own = demo / "combined" / OWN / model
        for name in ("traces", "engine.json"):
            if not (folder / model / name).exists():
                (folder / model).mkdir(parents=True, exist_ok=True)
                (shutil.copytree if name == "traces" else shutil.copy)(own / name, folder / model / name)
        for scores in (demo / "combined").glob(f"*/{model}/scores/*"):
            if not (folder / model / "scores" / scores.name).exists():
                shutil.copytree(scores, folder / model / "scores" / scores.name)


def run_grid(models: Mapping[str, str], judges: Mapping[str, list[str]], changes: Mapping[str, JSON]) -> None:
    """eval/combined.py with the keys of the demo and these `changes`."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command = [*launcher, "--config_file", "configs/accelerate/cpu.yaml", "eval/combined.py"]
    command += ["--config", "configs/demo/combined.yaml", "--live", "0", "--n", json.dumps(SIZES)]
    for key, value in {"models": models, "judges": judges, **changes}.items():
        command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    code = subprocess.run(command, cwd=REPOSITORY, preexec_fn=end_with_parent, check=False).returncode
    if code != 0:
        raise InputError(f"eval/combined.py ended with exit code {code}; its message is above")


def run_both(demo: Path, folder: Path) -> None:
    models = demo_models(demo)
    take_up(demo, folder / "arithmetic", models)
    judges = demo_judges(demo, models, (OWN, "linear", "pairwise"))
    run_grid(models, judges, {"output_dir": str(folder / "arithmetic")})
    problems = folder / "contested.jsonl"
    found = make_problems("combined", _PROBLEMS, CONTESTED, _SEED)
    write_text(problems, "".join(json.dumps(asdict(problem)) + "\n" for problem in found))
    judges = demo_judges(demo, models, (OWN, "linear"))
    changes = {"problems": str(problems), "problem_count": "null", "output_dir": str(folder / "contested")}
    run_grid(models, judges, changes)


def scaling_table(rows: Iterable[Row], model: str) -> str:
    """One model: a line per method and judge, a column per n."""
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        if row.model == model and not method_of(row.method).beside:
            cells.setdefault(_name(row), {})[row.n] = _cell(row)
    return _markdown("| method (judge) |", {f"| {name} |": by_n for name, by_n in cells.items()})


def against_equal_tokens(rows: Iterable[Row]) -> str:
    """Methods with a control: their accuracy minus that of consensus over what the same net tokens buy, in points."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for row in rows:
        if EQUAL_TOKENS in row.controls:
            control = row.controls[EQUAL_TOKENS]
            mean, low, high = (100 * value for value in (control.difference, *control.ci95))
            cell = f"{mean:+.1f} ({low:+.1f} … {high:+.1f})".replace("-", "−")
            cells.setdefault((row.model, _name(row)), {})[row.n] = cell
    lines = {f"| {model} | {name} |": by_n for (model, name), by_n in cells.items()}
    return _markdown("| model | method (judge) |", lines)


def _markdown(heads: str, lines: Mapping[str, Mapping[int, str]]) -> str:
    """A table: what a line begins with → n → its cell."""
    columns = heads.count("|") - 1 + len(SIZES)
    written = [f"{heads} {' | '.join(f'n = {n}' for n in SIZES)} |", "|---" * columns + "|"]
    written += [f"{head} {' | '.join(by_n.get(n, '–') for n in SIZES)} |" for head, by_n in lines.items()]
    return "\n".join(written)


def _name(row: Row) -> str:
    return method_label(row.method) + (f" ({judge_label(row.judge)})" if row.judge else "")


def _cell(row: Row) -> str:
    low, high = (100 * bound for bound in row.accuracy_ci95)
    saved = f"{100 * row.saving_net:.0f}".replace("-", "−")
    return f"{100 * row.accuracy:.1f} ({low:.0f}–{high:.0f}) · {saved} % · {row.tokens.longest_path:.0f}"


def tables(folder: Path) -> str:
    """Markdown of both runs."""
    parts = []
    for benchmark in ("arithmetic", "contested"):
        found = read_table(folder / benchmark)
        for model in found.models:
            title = f"### {benchmark}, {model}: {found.rows[0].problems} problems"
            parts += [title, scaling_table(found.rows, model)]
        parts += [f"### {benchmark}: against the same net tokens", against_equal_tokens(found.rows)]
    return "\n\n".join(parts) + "\n"


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", default="outputs/demo", help="a finished demo")
    parser.add_argument("--output_dir", default="outputs/which_method")
    parser.add_argument("--tables_only", action="store_true", help="of runs that are done")
    options = parser.parse_args()
    folder = Path(options.output_dir).absolute()
    if not options.tables_only:
        run_both(Path(options.demo).absolute(), folder)
    write_text(folder / "tables.md", tables(folder))
    say(f"tables: {folder / 'tables.md'}")


if __name__ == "__main__":
    main()
