"""Fixtures shared by all tests. One torch thread: two on two cores are slower, and CI has two cores."""

import json
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One key for all test processes, which resume what others have saved; not the user's own.
os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir()) / f"secateur-tests-{os.getuid()}")

# A shell's background job ignores interrupts, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("secateur", deadline=None)  # a loaded machine is no failure
settings.load_profile("secateur")

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST_FIRST = (
    "test_demo_end_to_end.py",
    "test_distributed.py",
    "test_survival.py",
    "test_run.py",
    "test_grpo_len.py",
    "test_faults.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        _put_long_files_first(items)
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow (make test SLOW=1)"))


def _put_long_files_first(items: list[pytest.Item]) -> None:
    """Files are dealt out whole and in this order, so that no process ends up alone with a long one."""
    slow = Counter(item.path for item in items if "slow" in item.keywords)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: (places.get(item.path.name, len(places)), -slow[item.path]))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder: real code paths, no skill."""
    from tests.tiny import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real problems and traces, where a checkout of the project has them beside it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder with real problems and traces beside the project")
    return folder


@pytest.fixture(scope="session")
def reported() -> list[dict]:
    """Cases that users of this field have reported, where a checkout of the project has them beside it."""
    path = REPOSITORY.parent / "shared" / "cases" / "grading.jsonl"
    if not path.is_file():
        pytest.skip("no folder with reported cases beside the project")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The trained embedded model that the project ships."""
    return REPOSITORY / "trainers" / "embedded_model"
