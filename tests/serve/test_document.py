"""docs/serve.md: its commands start a server and get the answers that stand there; and the container files."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from eval.serve import ServeConfig
from secateur.runtime.config import split_command_line
from tests.conftest import REPOSITORY
from tests.serve.running import Server, listening

PAGE = (REPOSITORY / "docs" / "serve.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The last server of the page's first commands, on a free port."""
    words = shlex.split(blocks("sh")[0].replace("\\\n", " ").splitlines()[-1])
    assert words[:2] == ["secateur", "serve"]
    log = tmp_path_factory.mktemp("serve") / "log.jsonl"
    with Server(log, *words[2:], "--device", "cpu", keys=("--port", "0")) as running:
        yield running


def shape(value: object) -> object:
    """All but the figures, which differ from machine to machine, and what no two answers share."""
    if isinstance(value, dict):
        left = {key: part for key, part in value.items() if key not in ("id", "votes")}
        return {key: shape(part) for key, part in left.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return "a number" if isinstance(value, int) else value


def test_curl_gets_the_answer_of_the_page(shown: Server) -> None:
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    command = command.replace(ADDRESS, shown.url)
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert shape(json.loads(said)) == shape(json.loads(blocks("json")[0]))


def test_the_client_s_code_of_the_page_runs(shown: Server) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(blocks("python")[0].replace(ADDRESS, shown.url), "docs/serve.md", "exec"), {})
    assert "</think>" in said.getvalue() and "\\boxed{" in said.getvalue()


@pytest.mark.parametrize("path", ["compose.yaml"])
def test_the_composed_service_has_keys_that_there_are(path: str) -> None:
    told = yaml.safe_load((REPOSITORY / "examples" / "serve" / path).read_text(encoding="utf-8"))
    service = told["services"]["secateur"]
    _, keys = split_command_line(service["command"])
    assert set(keys) <= {field.name for field in fields(ServeConfig) if field.init}
    assert float(service["stop_grace_period"].removesuffix("s")) > float(keys["drain_s"])
    assert (REPOSITORY / "examples" / "serve" / service["build"]["context"]).resolve() == REPOSITORY
    assert (REPOSITORY / service["build"]["dockerfile"]).is_file()


def test_the_container_listens_where_its_port_is() -> None:
    text = (REPOSITORY / "examples" / "serve" / "Dockerfile").read_text(encoding="utf-8")
    port = next(field.default for field in fields(ServeConfig) if field.name == "port")
    assert f"EXPOSE {port}" in text and f"127.0.0.1:{port}/health" in text
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.M)
    assert json.loads(entry) == ["secateur", "serve", "--host", "0.0.0.0"]
    assert Path(REPOSITORY / ".dockerignore").is_file()


def recipe() -> str:
    """The container file with its line breaks undone."""
    return (REPOSITORY / "examples" / "serve" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def context(folder: Path) -> Path:
    """What `COPY . .` brings: a fresh clone without what .dockerignore names."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    for name in filter(None, listed.decode().split("\0")):
        if name.partition("/")[0] not in ignored and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def test_the_container_file_copies_what_there_is_and_installs_an_extra_that_there_is() -> None:
    assert re.findall(r"^(?:COPY|ADD) (.*)$", recipe(), re.M) == [". ."]
    (extra,) = re.findall(r"^ARG EXTRAS=(\w+)$", recipe(), re.M)
    assert extra in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert 'pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" ".[${EXTRAS}]"' in recipe()


@pytest.mark.slow
def test_what_the_container_installs_serves_and_passes_its_health_check(tmp_path: Path) -> None:
    """Its own steps in an ordinary shell, but for the packages that are here already."""
    pytest.importorskip("setuptools", "77")
    source, place = context(tmp_path / "src"), tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(place), str(source)], check=True, capture_output=True)
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", recipe(), re.M)
    command = [str(place / "bin" / "secateur"), *json.loads(entry)[1:]]
    (check,) = re.findall(r"CMD +python3 -c \"(.*)\"$", recipe(), re.M)
    words = ("--model", str(REPOSITORY / "trainers" / "embedded_model"), "--port", "0", "--device", "cpu")
    environment = os.environ | {"PYTHONPATH": str(place), "SECATEUR_API_KEY": "a-key-of-ours"}
    home = tmp_path / "home"
    home.mkdir()
    with (home / "log").open("w") as log:
        process = subprocess.Popen([*command, *words], cwd=home, stdout=log, stderr=log, env=environment)
    try:
        port = listening(process, home / "log")
        subprocess.run([sys.executable, "-c", check.replace("8080", str(port))], check=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
