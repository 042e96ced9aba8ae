"""`secateur ls`: what lies where, and what it came to."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from eval.prune import Answered


def answered_line(started: int, tokens: int, right: bool | None) -> dict[str, object]:
    """A line as `prune` stores it, of 16 traces."""
    line = Answered("p", "1+1", "2", "", {}, 16, started, started, 0, tokens, 0, "", right)
    return {"format": 1, **asdict(line)}


def test_ls_tells_what_lies_where_and_what_cannot_be_read(repository: Path, tmp_path: Path) -> None:
    model = tmp_path / "run" / "final"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(3 * 2**20))
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "judge.json").write_text(json.dumps({"format": 0}))
    (tmp_path / "asked").mkdir()
    lines = [answered_line(started=4, tokens=300, right=True), answered_line(started=16, tokens=2000, right=None)]
    (tmp_path / "asked" / "answers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "answers.jsonl").write_text(json.dumps(lines[0] | {"tokens": "many"}) + "\n")
    said = subprocess.run(
        [sys.executable, "-m", "secateur.cli", "ls", str(tmp_path)], cwd=repository, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert f"model     {model}" in said.stdout and "3.0 MiB of weights" in said.stdout
    assert f"judge     {tmp_path / 'judge'}" in said.stdout and "cannot be read: " in said.stdout
    assert "2 answers, 1 of 1 right; 20 of 32 traces started, 2,300 tokens" in said.stdout
    assert f"{tmp_path / 'torn' / 'answers.jsonl'}, line 1: tokens: " in said.stdout.replace("\n          ", "")
