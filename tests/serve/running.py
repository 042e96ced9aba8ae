"""The user's own command, `python eval/serve.py`, on the embedded model and a free port."""

import json
import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import httpx

from tests.conftest import REPOSITORY

MODEL = "embedded_model"
TEXTS = (
    "Rule oak. Start with 4. a-6 b#7 c-7.",
    "Rule elm. Start with 2. a+3 b-1.",
    "Rule fir. Start with 9. a-1 b-2.",
)
KEYS = (
    *("--model", "trainers/embedded_model", "--prompt_family", "plain", "--temperature", "1.0", "--top_p", "1.0"),
    *("--max_tokens", "300", "--device", "cpu", "--dtype", "float32", "--n", "8", "--port", "0"),
)
_PATIENCE_S = 120.0
_START_S = 600.0  # a GGUF file is made a model folder first


def lines_of(log: Path) -> list[dict]:
    """The lines of JSON of a server's log; what a library wrote beside them is left out."""
    lines = log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def listening(process: subprocess.Popen, log: Path) -> int:
    """The port of a server, once it has one."""
    for _ in range(round(_START_S / 0.1)):
        if told := [line for line in lines_of(log) if line.get("message") == "listening"]:
            return told[0]["port"]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


class Server:
    """Serves from its construction until `stop`, or the end of its block; its log is a file."""

    def __init__(self, log: Path, *words: str, keys: tuple[str, ...] = KEYS, key: str = "") -> None:
        self.log_file = log
        environment = {name: value for name, value in os.environ.items() if name != "SECATEUR_API_KEY"}
        environment |= {"SECATEUR_API_KEY": key} if key else {}
        with log.open("w") as output:
            command = [sys.executable, "eval/serve.py", *keys, *words]
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output, env=environment)
        self.url = f"http://127.0.0.1:{listening(self.process, log)}"
        self.client = httpx.Client(
            base_url=self.url, timeout=_PATIENCE_S, headers={"Authorization": f"Bearer {key}"} if key else {}
        )

    def log(self) -> list[dict]:
        return lines_of(self.log_file)

    def chat(self, text: str = TEXTS[0], **fields: object) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=chat_body(text, **fields))

    def send(self, body: dict) -> HTTPConnection:
        """A chat that nobody reads the answer of; closing the connection is leaving."""
        connection = HTTPConnection("127.0.0.1", int(self.url.rpartition(":")[2]))
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        return connection

    def live(self) -> dict:
        """What the dashboard is told."""
        return self.client.get("/dashboard/data").json()

    def wait(self, condition) -> dict:
        """Until the dashboard's figures are so."""
        for _ in range(round(_PATIENCE_S / 0.02)):
            if condition(told := self.live()):
                return told
            time.sleep(0.02)
        raise AssertionError(told)

    def metrics(self) -> dict[str, float]:
        """`name{labels}` → value."""
        lines = self.client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(sent)
        return self.process.wait(_PATIENCE_S)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def chat_body(text: str = TEXTS[0], **fields: object) -> dict:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
