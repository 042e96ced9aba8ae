from collections.abc import Iterator

import pytest

from tests.serve.running import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that leave it as they found it."""
    with Server(tmp_path_factory.mktemp("serve") / "log.jsonl") as running:
        yield running
