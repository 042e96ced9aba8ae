"""A round that nothing interrupts, which interrupted ones are compared with."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.launches import ROUND, finish, launch, write_config


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of eight steps under plain DDP, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    run = base / "uninterrupted" / "run"
    with FileLock(base / "uninterrupted.lock"):
        if not (run / ROUND / "training.json").is_file():
            run.parent.mkdir(exist_ok=True)
            finish(launch(write_config(run)))
    return run
