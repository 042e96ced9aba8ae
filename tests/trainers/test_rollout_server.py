"""What can be said of a rollout server where there is none; tests/vllm has the real one."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secateur.runtime.errors import InputError
from trainers.grpo.rollout_server import check_rollout_server, serve_command

NEEDED = 4768


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def values(**keys: Any) -> dict[str, Any]:
    port = free_port()
    given = {"use_vllm": True, "vllm_mode": "server", "vllm_max_model_length": NEEDED, "vllm_server_timeout": 0.0}
    return given | {"vllm_server_base_url": f"http://127.0.0.1:{port}", "vllm_group_port": free_port()} | keys


@pytest.mark.parametrize("keys", [{"use_vllm": False}, {"vllm_mode": "colocate"}])
def test_without_server_mode_nothing_is_asked(keys: dict[str, Any]) -> None:
    check_rollout_server(values(vllm_server_base_url="no url", **keys), "org/model")


def test_where_nothing_answers_the_command_is_told() -> None:
    given = values()
    with pytest.raises(InputError) as error:
        check_rollout_server(given, "org/model")
    assert "no vLLM server answers" in str(error.value) and str(error.value).endswith(
        serve_command(given, "org/model")
    )


def test_the_command_serves_what_the_run_needs() -> None:
    command = serve_command(values(vllm_server_base_url="http://node7:8123"), "my folder/model")
    assert command.startswith("VLLM_SERVER_DEV_MODE=1 vllm serve 'my folder/model' ")
    for part in (
        "--port 8123",
        f"--max-model-len {NEEDED}",
        "--logprobs-mode processed_logprobs",
        '{"backend": "nccl"}',
    ):
        assert part in command


@pytest.mark.parametrize("url", ["http://node7:8000/v1", "http://node7:8000/", "node7:8000", "http://", "http://a:b"])
def test_urls_that_trl_would_wait_at_for_ever(url: str) -> None:
    with pytest.raises(InputError, match=r"key 'vllm_server_base_url' has the value .*; write http://host:port"):
        check_rollout_server(values(vllm_server_base_url=url), "org/model")


def test_weights_cannot_leave_a_cpu() -> None:
    with pytest.raises(InputError, match=r"use_cpu: true; .* set vllm_mode: colocate"):
        check_rollout_server(values(use_cpu=True), "org/model")


def test_a_port_that_another_run_holds() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        with pytest.raises(InputError, match=r"key 'vllm_group_port' has the value .* cannot be opened here"):
            check_rollout_server(values(vllm_group_port=other.getsockname()[1]), "org/model")


WAITS_FOR_EVER = """
import sys, time
from types import SimpleNamespace
from trainers.grpo import rollout_server
rollout_server.POLL_S, rollout_server.PATIENCE_S = 0.05, float(sys.argv[3])
url = "http://127.0.0.1:" + sys.argv[1]
arguments = SimpleNamespace(use_vllm=True, vllm_mode="server", vllm_server_base_url=url, process_index=0)
with rollout_server.explain_dead_server(arguments):
    if sys.argv[2] == "raise":
        raise ConnectionError("refused")
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("what", "patience", "reason"), [("wait", 0.2, "silent for 0 s"), ("raise", 600, "ConnectionError: refused")]
)
def test_a_silent_server_ends_the_process(repository: Path, what: str, patience: float, reason: str) -> None:
    """Also where the main thread is held in a call that never returns."""
    command = [sys.executable, "-c", WAITS_FOR_EVER, str(free_port()), what, str(patience)]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "no longer answers" in result.stderr and reason in result.stderr and "Traceback" not in result.stderr
