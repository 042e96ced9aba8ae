"""docs/python.md: its examples are run as they stand there, and its tables are those of the real signatures."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import secateur

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.M | re.S))
ELSEWHERE = {"prune": {"problem", "engine", "judge"}}


def table(name: str) -> dict[str, str]:
    """Key → what stands in the second column of the table with this name at its top."""
    rows = re.search(rf"^\| `{name}` \|.*\n\|[-|]+\n((?:\|.*\n?)+)", PAGE, re.M)[1].splitlines()
    return {key.strip("` "): default.strip("` ") for _, key, default, *_ in (row.split("|") for row in rows)}


@pytest.mark.parametrize("name", FILES)
def test_the_examples_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, tmp_path / name],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", ["prune", "Pruner", "TransformersEngine", "VLLMEngine", "OpenAIEngine"])
def test_tables_hold_every_argument_with_its_default(name: str) -> None:
    found: Callable[..., object] = getattr(secateur, name)
    said, parameters = table(name), inspect.signature(found).parameters
    assert said.keys() == parameters.keys() - ELSEWHERE.get(name, set())
    for key, default in said.items():
        value = parameters[key].default
        words = "" if value is inspect.Parameter.empty else "DEFAULT_SPEC" if key == "spec" else repr(value)
        assert default.replace('"', "'") == words, key


def test_the_tables_of_results_hold_every_field() -> None:
    assert list(table("PruneResult")) == [field.name for field in fields(secateur.PruneResult)]
    for record in (secateur.PruneProgress, secateur.Load):
        assert all(f"`{field.name}`" in PAGE for field in fields(record)), record


def test_what_the_pruner_takes_is_what_prune_takes() -> None:
    own, other = (set(inspect.signature(one).parameters) for one in (secateur.Pruner.prune, secateur.prune))
    assert own - other == {"self", "caller", "on_progress"} and other - own == {"engine", "judge", "answer_from"}
