"""A server on this machine that poses as the Hub for model repositories: what the real `huggingface_hub` client asks
for when it logs in, makes a repository, commits (small files inside the commit, large ones through LFS) and fetches.

A commit is a folder `<root>/<owner>/<name>/<commit>/`; `<root>/<owner>/<name>/refs/<branch>` names one.
"""

import base64
import hashlib
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import yaml

from tests.local_server import LocalServer, QuietHandler

TOKEN = "hf_SecretTokenOfTheTests"
READER = "hf_TokenThatMayOnlyRead"
USER, ORGANISATION = "gardener", "orchard"
_LFS_FROM = 1 << 10  # bytes; the Hub's own threshold is higher
_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = {
    "whoami": ("GET", re.compile(r"/api/whoami-v2")),
    "create": ("POST", re.compile(r"/api/repos/create")),
    "validate": ("POST", re.compile(r"/api/validate-yaml")),
    "preupload": ("POST", re.compile(rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)")),
    "batch": ("POST", re.compile(rf"/{_REPO}\.git/info/lfs/objects/batch")),
    "store": ("PUT", re.compile(r"/lfs/(?P<oid>[0-9a-f]{64})")),
    "branch": ("POST", re.compile(rf"/api/models/{_REPO}/branch/(?P<revision>[^/]+)")),
    "commit": ("POST", re.compile(rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)")),
    "tree": ("GET", re.compile(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(/.*)?")),
    "info": ("GET", re.compile(rf"/api/models/{_REPO}(/revision/(?P<revision>[^/]+))?")),
    "resolve": ("GET", re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")),
}
_PRIVATE = {"whoami", "create", "preupload", "batch", "branch", "commit"}


class ModelHub(LocalServer):
    """`asked` collects the kinds of the requests, `failing` those that are answered with 500, `repositories` name →
    whether private."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.failing = root, [], set[str]()
        self.repositories: dict[str, bool] = {}
        self.lock = threading.Lock()
        super().__init__(_Handler)

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """What a process needs to take this server for the Hub; xet is a protocol of its own and stays off."""
        values = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        return values | ({"HF_TOKEN": token} if token else {})

    def folder(self, repo: str, revision: str = "main") -> Path:
        """The files of a revision."""
        reference = self.root / repo / "refs" / revision
        return self.root / repo / (reference.read_text() if reference.is_file() else revision)


class _Handler(QuietHandler):
    server: ModelHub

    def do_GET(self) -> None:
        self._answer("GET")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        for name, (wanted, pattern) in _ROUTES.items():
            if wanted == method and (match := pattern.fullmatch(path)):
                with self.server.lock:
                    self._carry_out(name, {key: unquote(v) for key, v in match.groupdict().items() if v}, body)
                return
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _carry_out(self, name: str, named: dict[str, str], body: bytes) -> None:
        self.server.asked.append(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if name in self.server.failing:
            self._send(500, b'{"error": "the server is being pruned"}', {})
        elif name in _PRIVATE and token not in (TOKEN, READER):
            self._send(401, b'{"error": "Invalid username or password."}', {})
        elif name in _PRIVATE - {"whoami"} and token != TOKEN:
            self._send(403, b'{"error": "This token has no write access."}', {})
        elif name in ("tree", "info", "resolve", "commit", "preupload", "branch") and not self._may_see(named, token):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            getattr(self, f"_{name}")(named, body)

    def _may_see(self, named: dict[str, str], token: str) -> bool:
        private = self.server.repositories.get(named["repo"])
        return private is not None and (not private or token == TOKEN)

    def _whoami(self, named: dict[str, str], body: bytes) -> None:
        role = "write" if self.headers["Authorization"].endswith(TOKEN) else "read"
        about = {"type": "user", "name": USER, "orgs": [{"name": ORGANISATION}]}
        self._json(about | {"auth": {"type": "access_token", "accessToken": {"role": role, "displayName": "t"}}})

    def _create(self, named: dict[str, str], body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        known = repo in self.server.repositories
        if not known:
            self.server.repositories[repo] = asked.get("visibility") == "private"
            self._store_commit(repo, "main", {})
        self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo}, 409 if known else 200)

    def _validate(self, named: dict[str, str], body: bytes) -> None:
        """The real one knows more rules; these are the ones a card of ours could break."""
        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        values: dict[str, Any] = yaml.safe_load(front[1]) if front else {}
        bases = values.get("base_model", [])
        wrong = [name for name in ([bases] if isinstance(bases, str) else bases) if name.count("/") != 1]
        errors = [{"message": f'"base_model" with value "{name}" is not valid'} for name in wrong]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, named: dict[str, str], body: bytes) -> None:
        folder, files = self.server.folder(named["repo"], named["revision"]), []
        for file in json.loads(body)["files"]:
            there = folder / file["path"]
            mode = "lfs" if file["path"].endswith(".safetensors") or file["size"] > _LFS_FROM else "regular"
            oid = _oid(there.read_bytes(), mode) if there.is_file() else None
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _batch(self, named: dict[str, str], body: bytes) -> None:
        entries = []
        for entry in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}
            there = (self.server.root / "lfs" / entry["oid"]).is_file()
            entries.append(entry | ({} if there else {"actions": upload}))
        self._json({"transfer": "basic", "objects": entries})

    def _store(self, named: dict[str, str], body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == named["oid"]
        (self.server.root / "lfs").mkdir(exist_ok=True)
        (self.server.root / "lfs" / named["oid"]).write_bytes(body)
        self._json({})

    def _branch(self, named: dict[str, str], body: bytes) -> None:
        reference = self.server.root / named["repo"] / "refs" / named["revision"]
        if reference.is_file():
            self._json({"error": "exists"}, 409)
            return
        reference.write_text((self.server.root / named["repo"] / "refs" / "main").read_text())
        self._json({})

    def _commit(self, named: dict[str, str], body: bytes) -> None:
        folder, changes = self.server.folder(named["repo"], named["revision"]), {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = (self.server.root / "lfs" / value["oid"]).read_bytes()
            elif line["key"] == "deletedFile":
                changes[value["path"]] = None
        commit = self._store_commit(named["repo"], named["revision"], changes, folder)
        url = f"{self.server.url}/{named['repo']}/commit/{commit}"
        self._json({"commitUrl": url, "commitOid": commit, "hookOutput": "", "pullRequestUrl": None})

    def _store_commit(
        self, repo: str, branch: str, changes: dict[str, bytes | None], parent: Path | None = None
    ) -> str:
        place = self.server.root / repo
        commit = hashlib.sha1(f"{repo}{len(list(place.glob('*')))}".encode()).hexdigest()
        folder = place / commit
        shutil.copytree(parent, folder) if parent else folder.mkdir(parents=True)
        for name, content in changes.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / branch).write_text(commit)
        return commit

    def _tree(self, named: dict[str, str], body: bytes) -> None:
        if folder := self._revision(named):
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            self._json([_entry(str(path.relative_to(folder)), path.read_bytes()) for path in files])

    def _info(self, named: dict[str, str], body: bytes) -> None:
        if folder := self._revision(named):
            names = [{"rfilename": str(p.relative_to(folder))} for p in sorted(folder.rglob("*")) if p.is_file()]
            about = {"id": named["repo"], "sha": folder.name, "siblings": names, "tags": []}
            self._json(about | {"private": self.server.repositories[named["repo"]]})

    def _resolve(self, named: dict[str, str], body: bytes) -> None:
        folder = self._revision(named)
        if folder and not (folder / named["path"]).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": folder.name})
        elif folder:
            content = (folder / named["path"]).read_bytes()
            headers = {"ETag": f'"{_oid(content, "regular")}"', "X-Repo-Commit": folder.name}
            self._send(200, content, headers)

    def _revision(self, named: dict[str, str]) -> Path | None:
        folder = self.server.folder(named["repo"], named.get("revision", "main"))
        if folder.is_dir():
            return folder
        self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return None


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": quote(name), "size": len(content), "oid": _oid(content, "regular")}


def _oid(content: bytes, mode: str) -> str:
    """As git names a blob, or as LFS names a file."""
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
