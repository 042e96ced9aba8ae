"""The import table of the project, read from the source: an arrow that is not in it fails here."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path.relative_to(REPOSITORY).as_posix()
    for path in sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "bench" / "RESULTS.md"])
]
ROOMS = {
    "secateur": {"secateur"},
    "secateur.results": {"secateur.runtime", "secateur.engines.accounting"},
    "secateur.runtime": set(),
    "secateur.tasks": {"secateur.runtime"},
    "secateur.engines": {"secateur.tasks", "secateur.runtime"},
    "secateur.deepprune": {"secateur.engines", "secateur.tasks", "secateur.runtime"},
    "secateur.serve": {"secateur.deepprune", "secateur.engines", "secateur.tasks", "secateur.runtime"},
    "rewards": {"secateur.tasks", "secateur.runtime"},
    "schedules": {
        *("secateur.runtime", "secateur.results", "secateur.engines.registry", "secateur.tasks.prompts"),
        *("secateur.engines.gguf", "secateur.tasks.answers.extraction", "secateur.tasks.graded"),
        "rewards.registry",
    },
    "trainers": {"secateur", "rewards", "schedules"},
    "eval": {"secateur", "rewards", "schedules"},
    "bench": {"secateur", "rewards", "schedules", "trainers", "eval"},
    "tools": {"secateur", "rewards", "schedules", "trainers", "eval", "bench"},
}
"""Room → what it may import besides itself; a room stands for all that is in it."""
HALLS = {
    "eval.traces": set(),
    "eval.one_model": {"eval.traces"},
    "eval.table": {"eval.traces"},
    "eval.studies": {"eval.traces", "eval.one_model", "eval.table"},
    "eval.report": {"eval.table"},
    "eval.dry_run": {"eval.traces", "eval.table"},
    "schedules.card": set(),
    "schedules.validation": set(),
    "trainers.steps": set(),
    "trainers.grpo": {"trainers.steps"},
    "trainers.judges": set(),
    "trainers.sweep": {"trainers.judges"},
    "trainers.dry_run": {"trainers.grpo", "trainers.judges"},
}
"""Room within a folder of commands → the other rooms of that folder that it may import."""
HEAVY = {"torch", "trl", "vllm", "transformers", "deepspeed"}
WITHOUT_HEAVY = (
    "schedules/**/*.py",
    "secateur/runtime/*.py",
    "secateur/tasks/**/*.py",
    "rewards/*.py",
    "secateur/deepprune/*.py",
    "secateur/serve/*.py",
    "eval/table/method.py",
    "eval/table/votes.py",
    "eval/table/answers.py",
    "eval/table/similarity.py",
    "eval/table/deepconf.py",
    "eval/table/pruning.py",
    "eval/table/rows.py",
    "eval/table/recommend.py",
    "eval/table/grid.py",
    "eval/table/config.py",
    "eval/table/costs.py",
    "secateur/results.py",
    "secateur/engines/accounting.py",
    "secateur/engines/registry.py",
    "trainers/dry_run/memory.py",
    "trainers/dry_run/report.py",
)
SHADOWING = {"statistics", "datasets", "logging", "accelerate", "vllm", "types", "torch", "trl", "wandb"}


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {
    module_of(path): path
    for folder in {room.split(".")[0] for room in ROOMS}
    for path in REPOSITORY.glob(f"{folder}/**/*.py")
}


def imported(path: Path, module_level_only: bool = False) -> set[str]:
    """Full names of everything a file imports, late and for types as well; `from a import b` is a.b where that is a
    module. `module_level_only`: without what stands in functions and in `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if module_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & SOURCES.keys()
            found |= modules | ({node.module} if len(modules) < len(names) else set())
    return found


GRAPH = {name: {other for other in imported(path) if other in SOURCES} - {name} for name, path in SOURCES.items()}


def room_of(module: str, rooms: Iterable[str]) -> str | None:
    """The narrowest of `rooms` that a module is in."""
    inside = [room for room in rooms if module == room or module.startswith(f"{room}.")]
    return max(inside, key=len, default=None)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_follow_the_arrows(room: str) -> None:
    mine = [module for module in SOURCES if room_of(module, ROOMS) == room]
    assert mine, f"{room} holds no Python file"
    for module in mine:
        for other in GRAPH[module]:
            allowed = {room} | ROOMS[room]
            assert room == "secateur" or any(other == one or other.startswith(f"{one}.") for one in allowed), (
                f"{module} imports {other}"
            )


@pytest.mark.parametrize("hall", sorted(HALLS))
def test_rooms_of_a_folder_keep_their_doors(hall: str) -> None:
    mine = [module for module in SOURCES if room_of(module, HALLS) == hall]
    assert mine, f"{hall} holds no Python file"
    for module in mine:
        for other in GRAPH[module]:
            target = room_of(other, HALLS)
            assert target in {None, hall} | HALLS[hall], f"{module} imports {other}"


def circles() -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(GRAPH[module]):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            place = stack.index(module)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(GRAPH):
        if module not in index:
            visit(module)
    return found


def test_no_modules_import_each_other() -> None:
    assert not circles()


@pytest.mark.parametrize("pattern", WITHOUT_HEAVY)
def test_pure_parts_load_no_model_library(repository: Path, pattern: str) -> None:
    files = sorted(repository.glob(pattern))
    assert files, f"nothing matches {pattern}"
    for path in files:
        heavy = {name.split(".")[0] for name in imported(path, module_level_only=True)} & HEAVY
        assert not heavy, f"{path.relative_to(repository)} imports {sorted(heavy)} when it is loaded"


def test_no_entry_folder_shadows_a_library(repository: Path) -> None:
    """`accelerate launch trainers/x.py` puts trainers/ first on the import path."""
    names = {path.stem for folder in ("trainers", "eval", "schedules") for path in (repository / folder).glob("*.py")}
    assert not names & SHADOWING


def test_every_config_is_yaml_and_is_mentioned_somewhere(repository: Path) -> None:
    """A config nobody names is a config nobody finds."""
    places = [path for path in repository.iterdir() if path.name[0] != "." and path.name not in ("outputs", "tests")]
    sources = [path for place in places for path in [place, *place.rglob("*")]]  # .venv-vllm may be in the making
    sources = [path for path in sources if path.suffix in (".md", ".py") or path.name == "Makefile"]
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
    folders = "trainers|schedules|eval|rewards|configs|bench|tools|docs|examples|secateur|tests"
    named = set(re.findall(rf"(?<![\w/])(?:\.\./)?((?:{folders})/[\w./-]+\.(?:py|yaml|sh|png|svg|md))", text))
    linked = {(repository / document).parent / name for name in re.findall(r"\]\(([\w./-]+)\)", text)}
    paths = {repository / name for name in named} | linked
    assert paths
    missing = sorted(str(path) for path in paths if not path.is_file())
    assert not missing, f"{document} names files that are not there: {missing}"
