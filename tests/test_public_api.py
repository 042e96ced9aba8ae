"""`from secateur import …` in anybody's program: what is offered, how fast, and beside modules of the same names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import secateur

PROGRAM = """
import tasks, runtime, engines, eval, rewards, schedules, trainers, tools
import bench.mine
from secateur import PruneRule, SamplingSpec, TransformersEngine, load_judge, prune

judge = load_judge("values")
result = prune(
    "1 + 1", TransformersEngine(MODEL, dtype="float32"), judge, n=4,
    spec=SamplingSpec(max_tokens=12), rule=PruneRule(),
)
assert len(result.traces) == 4 and result.usage.generated > 0
assert all(module.MINE for module in (tasks, runtime, engines, eval, rewards, schedules, trainers, tools, bench.mine))
print("pruned", len(result.traces))
"""


def run_program(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(program)
    return subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True, timeout=300)


def test_it_works_beside_modules_of_the_same_names(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("tasks", "runtime", "engines", "eval", "rewards", "schedules", "trainers", "tools"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("")
    (tmp_path / "bench" / "mine.py").write_text("MINE = True\n")
    done = run_program(tmp_path, PROGRAM.replace("MODEL", repr(str(tiny_model))))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("pruned 4")


def test_every_name_can_be_imported_and_is_documented() -> None:
    assert secateur.__version__.count(".") == 2
    for name in secateur.__all__:
        found = getattr(secateur, name)
        assert found.__doc__ or name.isupper(), name
    assert set(secateur.__all__) <= set(dir(secateur))


def test_type_checkers_see_what_is_loaded_late() -> None:
    """The names in `if TYPE_CHECKING` are those of `__all__`, from the modules that they really come from."""
    tree = ast.parse(Path(secateur.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == secateur._HOME_OF and sorted(seen) == sorted(secateur.__all__)


def test_importing_it_loads_next_to_nothing(tmp_path: Path) -> None:
    program = "import sys, secateur; heavy = {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)\n"
    done = run_program(
        tmp_path, program + "assert not heavy, heavy\nsecateur.PruneRule\nassert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        secateur.prunes  # noqa: B018
