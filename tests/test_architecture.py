"""The import table of the project, read from the source: an arrow that is not in it fails here."""

import ast
import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path.relative_to(REPOSITORY).as_posix()
    for path in sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "bench" / "RESULTS.md"])
]
PACKAGES = {"tasks", "rewards", "schedules", "engines", "deepprune", "trainers", "eval", "bench", "runtime"}
MAY_IMPORT = {
    "runtime": set(),
    "tasks": {"runtime"},
    "rewards": {"tasks", "runtime"},
    "schedules": {"runtime"},
    "engines": {"tasks", "runtime"},
    "deepprune": {"tasks", "engines", "runtime"},
    "trainers": PACKAGES - {"eval", "bench"},
    "eval": PACKAGES - {"trainers", "bench"},
    "bench": PACKAGES,
}
HEAVY = {"torch", "trl", "vllm", "transformers", "deepspeed"}
WITHOUT_HEAVY = (
    "schedules/*.py",
    "runtime/*.py",
    "tasks/*.py",
    "rewards/*.py",
    "deepprune/cut.py",
    "deepprune/cluster.py",
    "deepprune/finish.py",
    "deepprune/vote.py",
    "deepprune/decide.py",
    "deepprune/plan.py",
    "deepprune/scores.py",
    "deepprune/grow.py",
    "deepprune/arrivals.py",
    "deepprune/replay.py",
    "deepprune/start.py",
    "deepprune/batched.py",
    "eval/scores.py",
    "eval/methods.py",
    "eval/records.py",
    "eval/baselines.py",
    "eval/deepconf.py",
    "eval/rules.py",
    "eval/recommend.py",
    "eval/settings_check.py",
    "eval/costs.py",
    "eval/combined_csv.py",
    "engines/accounting.py",
    "trainers/dry_run_memory.py",
    "trainers/dry_run_plan.py",
)
SHADOWING = {"statistics", "datasets", "logging", "accelerate", "vllm", "types", "torch", "trl", "wandb"}


def imported_roots(path: Path, module_level_only: bool = False) -> set[str]:
    """First components of everything a file imports; `TYPE_CHECKING` blocks are for readers and do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if module_level_only else list(ast.walk(tree))
    roots: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            roots.add(node.module.split(".")[0])
    return roots


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_follow_the_arrows(repository: Path, package: str) -> None:
    files = sorted((repository / package).rglob("*.py"))
    assert files, f"{package}/ holds no Python file"
    for path in files:
        forbidden = (imported_roots(path) & PACKAGES) - MAY_IMPORT[package] - {package}
        assert not forbidden, f"{path.relative_to(repository)} imports {sorted(forbidden)}"


@pytest.mark.parametrize("pattern", WITHOUT_HEAVY)
def test_pure_parts_load_no_model_library(repository: Path, pattern: str) -> None:
    files = sorted(repository.glob(pattern))
    assert files, f"nothing matches {pattern}"
    for path in files:
        heavy = imported_roots(path, module_level_only=True) & HEAVY
        assert not heavy, f"{path.relative_to(repository)} imports {sorted(heavy)} when it is loaded"


def test_no_entry_folder_shadows_a_library(repository: Path) -> None:
    """`accelerate launch trainers/x.py` puts trainers/ first on the import path."""
    names = {path.stem for folder in ("trainers", "eval", "schedules") for path in (repository / folder).glob("*.py")}
    assert not names & SHADOWING


def test_every_config_is_yaml_and_is_mentioned_somewhere(repository: Path) -> None:
    """A config nobody names is a config nobody finds."""
    sources = [*repository.rglob("*.md"), *repository.rglob("*.py"), repository / "Makefile"]
    sources = [path for path in sources if not {".venv", ".venv-vllm", "outputs", "tests"} & set(path.parts)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    configs = sorted((repository / "configs").rglob("*.yaml"))
    assert configs
    for path in configs:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
        assert path.name in text, f"{path.relative_to(repository)} is named in no document and no code"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_files_that_exist(repository: Path, document: str) -> None:
    """Commands and links; a file beside the document may be linked by its bare name."""
    text = (repository / document).read_text(encoding="utf-8")
    folders = "trainers|schedules|eval|configs|bench|tools|docs|examples|engines|deepprune|tests|tasks"
    named = set(re.findall(rf"(?<![\w/])(?:\.\./)?((?:{folders})/[\w./-]+\.(?:py|yaml|sh|png|svg|md))", text))
    linked = {(repository / document).parent / name for name in re.findall(r"\]\(([\w./-]+)\)", text)}
    paths = {repository / name for name in named} | linked
    assert paths
    missing = sorted(str(path) for path in paths if not path.is_file())
    assert not missing, f"{document} names files that are not there: {missing}"
