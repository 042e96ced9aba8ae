"""TRL's server mode against vLLM's own server: the check before training, training, and a server that dies.

TRL sends weights to a server by NCCL, from GPU to GPU. Here only these bytes take another way, a file (see
`cpu_weights`); the server, its endpoints and all of TRL's requests are the real ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secateur.runtime.errors import InputError
from tests.vllm.grpo_runs import (
    BAND,
    LIMIT,
    differences,
    finish,
    free_port,
    kill,
    mean_ratio,
    read_records,
    serve,
    train,
    wait_for_lines,
    wait_until_up,
    write_config,
)
from trainers.grpo.rollout_server import check_rollout_server

TRANSFER = ("--weight-transfer-config", '{"backend": "nccl"}')
PROCESSED = ("--logprobs-mode", "processed_logprobs")


@dataclass
class Servers:
    """`good` is as TRL needs it, `bare` without developer mode; the ports stay when a server is started anew."""

    folder: Path
    model: Path
    repository: Path
    good: int
    bare: int

    @property
    def weights(self) -> dict[str, str]:
        return {"SECATEUR_WEIGHTS": str(self.folder / "weights.safetensors")}

    def start(self, name: str) -> Any:
        port, log = getattr(self, name), self.folder / f"{name}.log"
        options, environment = (
            ((*TRANSFER, *PROCESSED), {"VLLM_SERVER_DEV_MODE": "1"}) if name == "good" else ((), {})
        )
        return serve(self.model, self.repository, port, log, *options, **environment, **self.weights)

    def values(self, port: int, **keys: Any) -> dict[str, Any]:
        """What TRL would be given for the server at `port`."""
        url = f"http://127.0.0.1:{port}"
        server = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url, "vllm_server_timeout": 0.0}
        return server | {"vllm_max_model_length": 768 + LIMIT, "vllm_group_port": free_port()} | keys


@pytest.fixture(scope="module")
def servers(_needs_vllm: None, tmp_path_factory, embedded_model: Path, repository: Path) -> Servers:
    return Servers(tmp_path_factory.mktemp("servers"), embedded_model, repository, free_port(), free_port())


@pytest.fixture(scope="module")
def running(servers: Servers) -> Iterator[dict[str, Any]]:
    processes = {name: servers.start(name) for name in ("good", "bare")}
    try:
        for name, process in processes.items():
            wait_until_up(process, getattr(servers, name), servers.folder / f"{name}.log")
        yield processes
    finally:
        for process in processes.values():
            kill(process)


@pytest.mark.slow
def test_a_server_is_checked_before_training(servers: Servers, running: dict[str, Any]) -> None:
    model = str(servers.model)
    check_rollout_server(servers.values(servers.good), model)
    for port, keys, name, message in (
        (servers.bare, {}, model, "does not show its settings .* VLLM_SERVER_DEV_MODE=1 vllm serve"),
        (
            servers.good,
            {"vllm_max_model_length": 1025},
            model,
            "takes 1024 tokens .* need 1025.*--max-model-len 1025",
        ),
        (servers.good, {}, "Qwen/QwQ-32B", "the run trains 'Qwen/QwQ-32B'.* vllm serve Qwen/QwQ-32B"),
    ):
        with pytest.raises(InputError, match=message):
            check_rollout_server(servers.values(port, **keys), name)


@pytest.mark.slow
def test_a_run_survives_the_death_of_its_server(
    servers: Servers, running: dict[str, Any], tmp_path: Path, repository: Path
) -> None:
    """The server is killed at step 3: the run ends with one message. With a new server it goes on from step 2."""
    kill(running["bare"])
    url = f"http://127.0.0.1:{servers.good}"
    config, folder = write_config(tmp_path, servers.model, 6, vllm_mode="server", vllm_server_base_url=url)
    first = train(config, repository, **servers.weights)
    try:
        wait_for_lines(first, folder / "train.jsonl", 3, config.with_name("log"))
        kill(running["good"])
    finally:
        code, output = finish(first, config.with_name("log"))
    assert code == 1
    assert f"error: the vLLM server at {url} no longer answers" in output and "Traceback" not in output
    assert not (folder / "training.json").exists()
    (servers.folder / "weights.safetensors").unlink(missing_ok=True)
    running["good"] = servers.start("good")
    wait_until_up(running["good"], servers.good, servers.folder / "good.log")
    code, output = finish(train(config, repository, **servers.weights), config.with_name("log"))
    assert code == 0, output[-3000:]
    assert "going on from" in output
    records = read_records(folder)
    assert sorted(records) == [1, 2, 3, 4, 5, 6]
    assert BAND[0] <= mean_ratio(records, range(1, 7)) <= BAND[1]
    assert max(differences(records, range(1, 7))) < 0.005
    assert max(record["completions/max_length"] for record in records.values()) <= LIMIT
