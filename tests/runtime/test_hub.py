"""Pushing and fetching with the real client, against a server on this machine that poses as the Hub.

The client reads its addresses when it is imported, so every part is a process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secateur.runtime.errors import InputError
from secateur.runtime.hub import Target, cached_id, check_key, check_push, content_digest, is_hub_id
from tests.model_hub import ORGANISATION, READER, TOKEN, USER, ModelHub

PUSH = """
import json, sys
from pathlib import Path
from secateur.runtime.cards import describe_base
from secateur.runtime.errors import InputError
from secateur.runtime.hub import Target, check_push, push_once, snapshot
for job in map(json.loads, sys.argv[2:]):
    folder, revision = Path(sys.argv[1]), job.get("revision")
    try:
        target = check_push(Target(job["repo_id"], private=True, revision=revision, token=job.get("token")))
        print(*push_once(folder, folder.parent / "hub.json", target, message="a test"))
        print(snapshot(name := target.repo_id + (f"@{revision}" if revision else "")))
        base = describe_base(name)
        print(base.name, base.hub_id, base.licence["license"], base.source)
    except InputError as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    with ModelHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "final"
    (made / "model").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (made / "config.json").write_text("{}")
    (made / "code.py").write_text("print('never')")
    (made / "weights.bin").write_bytes(b"pickle")
    (made / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return made


def push(hub: ModelHub, folder: Path, *jobs: dict[str, str], token: str | None = TOKEN) -> list[str]:
    """What a process says that pushes the folder and fetches it again, job by job."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = inherited | hub.environment(folder.parent.parent / "home", token)
    command = [sys.executable, "-c", PUSH, str(folder), *map(json.dumps, jobs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_folder_goes_up_once_and_comes_down_without_code_and_pickles(hub: ModelHub, folder: Path) -> None:
    told, fetched, base, again, *_ = push(hub, folder, {"repo_id": "final"}, {"repo_id": "final"})
    assert told == f"{hub.url}/{USER}/final True" and again == f"{hub.url}/{USER}/final False"
    assert base == f"{USER}/final {USER}/final mit its own model card"
    assert hub.repositories == {f"{USER}/final": True} and hub.asked.count("commit") == 1 and "store" in hub.asked
    there = {str(path.relative_to(fetched)) for path in Path(fetched).rglob("*") if path.is_file()}
    assert there == {"README.md", "config.json", "model/model.safetensors"}
    for name in there:
        assert Path(fetched, name).read_bytes() == (folder / name).read_bytes()
    record = json.loads((folder.parent / "hub.json").read_text())
    assert record["repo_id"] == f"{USER}/final" and TOKEN not in json.dumps(record)

    (folder / "model" / "model.safetensors").rename(folder / "model" / "model-00001-of-00001.safetensors")
    _, fetched, _, _, branch, _ = push(
        hub, folder, {"repo_id": "final"}, {"repo_id": f"{ORGANISATION}/x", "revision": "v1"}
    )
    assert [path.name for path in Path(fetched, "model").iterdir()] == ["model-00001-of-00001.safetensors"]
    assert (Path(branch) / "config.json").is_file()
    assert not (hub.folder(f"{ORGANISATION}/x", "main") / "config.json").exists()
    assert (hub.folder(f"{ORGANISATION}/x", "v1") / "config.json").is_file()


def test_who_may_not_push_is_told_so_before_anything_is_sent(hub: ModelHub, folder: Path) -> None:
    jobs = [{"repo_id": "x"}, {"repo_id": "x", "token": "hf_wrong"}, {"repo_id": "x", "token": READER}]
    told = push(hub, folder, *jobs, {"repo_id": "google/x", "token": TOKEN}, token=None)
    assert told[0].startswith("HubError: the Hub was asked who you are: no token found; log in with `hf auth login`")
    assert told[1].startswith("HubError: the Hub was asked who you are: Invalid user token")
    assert told[2].startswith(f"HubError: the token of '{USER}' may only read")
    assert told[3].startswith(
        f"HubError: key 'hub_model_id' has the value 'google/x', but the token belongs to {USER}"
    )
    assert set(hub.asked) == {"whoami"} and len(told) == 4


def test_a_failed_push_is_no_push(hub: ModelHub, folder: Path) -> None:
    hub.failing.add("commit")
    (told,) = push(hub, folder, {"repo_id": "final"})
    assert told.startswith(f"HubError: {folder} was not pushed to {USER}/final: ")
    assert not (folder.parent / "hub.json").exists()


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert is_hub_id("user/judge") and is_hub_id("user/judge@refs/pr/1")
    assert not any(map(is_hub_id, ("outputs/judge", "judge", "a/b/c", "../x", "user/", "user/a b", "/etc/x")))
    assert cached_id("x/models--a--b--c/snapshots/1") == "a/b--c" and cached_id("a/b") is None
    with pytest.raises(InputError, match="key 'hub_model_id' has the value 'a/b/c'"):
        check_key("hub_model_id", "a/b/c")


@pytest.mark.parametrize("name", ["my run", "a--b", "user/x.git", "x" * 97])
def test_a_folder_whose_name_the_hub_would_refuse_is_told_so_before_the_work(name: str) -> None:
    with pytest.raises(InputError, match=r"a repository cannot be called '.*give another name as 'hub_model_id'"):
        check_push(Target(name))


def test_the_digest_is_that_of_what_is_pushed(folder: Path) -> None:
    before = content_digest(folder, ("*.json", "*.safetensors"))
    (folder / "code.py").write_text("other")
    assert content_digest(folder, ("*.json", "*.safetensors")) == before
    (folder / "config.json").write_text("[]")
    assert content_digest(folder, ("*.json", "*.safetensors")) != before
    whole = content_digest(folder, ("model/*",))
    (folder / "model" / "deeper").mkdir()
    (folder / "model" / "deeper" / "x.json").write_text("{}")
    assert content_digest(folder, ("model/*",)) != whole, "the client pushes it, too"
