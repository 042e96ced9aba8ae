"""A server on this machine that speaks as much of the Hub's protocol as `datasets.load_dataset` asks for.

Repositories are folders `<root>/<owner>/<name>/<commit>/` with the real file names and schemas and a few rows.
"""

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.local_server import LocalServer, QuietHandler

_RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(
    r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>revision|tree|paths-info)/(?P<revision>[^/]+)(?P<path>/.*)?)?"
)


class HubServer(LocalServer):
    """`asked` collects (repository, revision) of every request; files of `gated` repositories need a token."""

    def __init__(self, root: Path, gated: tuple[str, ...] = ()) -> None:
        self.root, self.gated = root, gated
        self.asked: list[tuple[str, str]] = []
        super().__init__(_Handler)


class _Handler(QuietHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=b"")

    def do_GET(self) -> None:
        self._answer(body=b"")

    def do_POST(self) -> None:
        self._answer(body=self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := _RESOLVE.fullmatch(path):
            self._file(match["repo"], match["revision"], match["path"])
        elif match := _API.fullmatch(path):
            self._api(match, body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _folder(self, repo: str, revision: str) -> Path | None:
        self.server.asked.append((repo, revision))
        folder = self.server.root / repo / revision
        if folder.is_dir():
            return folder
        known = (self.server.root / repo).is_dir()
        self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        return None

    def _file(self, repo: str, revision: str, path: str) -> None:
        folder = self._folder(repo, revision)
        if folder is None:
            return
        if repo in self.server.gated and path != "README.md" and not self.headers.get("Authorization"):
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif not (folder / path).is_file():
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            content = (folder / path).read_bytes()
            self._send(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": revision})

    def _api(self, match: re.Match[str], body: bytes) -> None:
        folder = self._folder(match["repo"], match["revision"] or "main")
        if folder is None:
            return
        paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
        if match["verb"] in (None, "revision"):
            names = [{"rfilename": name} for name, path in paths.items() if path.is_file()]
            self._json({"id": match["repo"], "sha": folder.name, "siblings": names, "private": False, "tags": []})
        elif match["verb"] == "tree":
            inside = (match["path"] or "").strip("/")
            everything = "true" in parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower()
            below = [name for name in paths if not inside or name.startswith(f"{inside}/")]
            depth = inside.count("/") + 1 if inside else 0
            self._json([_entry(name, paths[name]) for name in below if everything or name.count("/") == depth])
        else:
            asked = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            self._json([_entry(name, paths[name]) for name in asked if name in paths])


def _entry(name: str, path: Path) -> dict[str, object]:
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": _digest(name.encode())}
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
