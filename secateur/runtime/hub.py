"""The Hugging Face Hub: names of repositories there, login, one folder up, one snapshot down.

A token comes from `hf auth login`, from HF_TOKEN, or from the caller; it is sent to the Hub and written nowhere. What
comes down is data: patterns name what is fetched, and the callers ask for JSON, text and safetensors only.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.runtime.files import sampled_digest
from secateur.runtime.process import is_no_space
from secateur.runtime.records import read_record, write_record

# What a model or a judge needs to be loaded: no code, no pickles.
SAFE_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.md", "LICEN?E*", "NOTICE*", "USE_POLICY*")
RECORD = "hub.json"
_RECORD_FORMAT = 1
_PATIENCE_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._/-]*)?")
_REPOSITORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_LATER = ", or leave push_to_hub out and start again with it where the Hub can be reached; what is done stays"
_AGAIN = "the next start tries it again"
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"


class HubError(InputError):
    """The Hub refused, was not reached, or holds something else than was asked for."""


@dataclass(frozen=True)
class Pushed:
    """What was pushed where, the file `RECORD` beside a folder: `content` tells one state of the folder from another
    (`content_digest`), `commit` is what the Hub calls it."""

    repo_id: str
    revision: str | None
    content: str
    url: str
    commit: str


@dataclass(frozen=True)
class Target:
    """Where a folder is pushed to. `revision`: branch, None for main; `private` None = the owner's default."""

    repo_id: str
    private: bool | None = None
    revision: str | None = None
    token: str | None = field(default=None, repr=False)


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` reads as `owner/name` or `owner/name@revision` and no such path, nor a folder `owner`, is here.

    >>> is_hub_id("user/judge"), is_hub_id("user/judge@v1"), is_hub_id("judges/a/b"), is_hub_id("judge")
    (True, True, False, False)
    """
    text = str(name)
    return bool(_NAME.fullmatch(text)) and not Path(text).exists() and not Path(text.split("/")[0]).is_dir()


def require_model_folder(key: str, name: str) -> None:
    """Refuse early, and without the network, what cannot be loaded as the model that `key` names: a folder that holds
    none, or a text that reads as a path rather than as `owner/name`."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"key '{key}' has the value '{name}': a folder without config.json is no model folder")
    elif path.is_file():
        raise InputError(f"key '{key}' has the value '{name}', which is a file: give a model folder or a .gguf file")
    elif name.startswith((".", "/", "~", "outputs/")) or name.count("/") != 1 or path.parent.is_dir():
        raise InputError(f"key '{key}' has the value '{name}': no such folder; train or download the model first")


def require_reach(name: str | Path) -> None:
    """Raises `HubError` where `name` is no folder here, not in the Hub's cache, and the Hub does not answer: its
    client would try again for most of a minute before it says so."""
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(name).is_dir() or constants.HF_HUB_OFFLINE:  # offline nothing is tried
        return
    if isinstance(try_to_load_from_cache(str(name), "config.json"), str) or _hub_answers():
        return
    raise HubError(
        f"{name}: no such folder here, and the Hub ({constants.ENDPOINT}) is out of reach; correct the path, or look "
        "at the network and HF_ENDPOINT"
    )


@functools.cache
def _hub_answers() -> bool:
    """Whether anything answers at the Hub's address; asked once."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except httpx.TransportError:
        return False
    return True


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """
    >>> split_revision("user/judge@v1"), split_revision("user/judge")
    (('user/judge', 'v1'), ('user/judge', None))
    """
    repo_id, at, revision = str(name).partition("@")
    return repo_id, revision if at else None


def cached_id(folder: str | Path) -> str | None:
    """The repository that a folder of the Hub's own cache holds a snapshot of.

    >>> cached_id("/home/me/.cache/huggingface/hub/models--Qwen--QwQ-32B/snapshots/976055f")
    'Qwen/QwQ-32B'
    """
    parts = Path(folder).parts
    found = [part for part, after in itertools.pairwise(parts) if after == "snapshots"]
    return found[-1].removeprefix("models--").replace("--", "/", 1) if found else None


def check_key(key: str, value: str | None) -> None:
    """Raises `InputError` if `value` cannot name a repository."""
    if value is not None and not _REPOSITORY.fullmatch(value):
        raise InputError(f"key '{key}' has the value '{value}'; give a repository of the Hub, such as user/name")


def check_push(target: Target) -> Target:
    """The target with its owner's name, after a look whether it can be pushed to: login, role, namespace.

    Raises `HubError` naming the remedy, so that a missing token ends a run before its work begins.
    """
    _check_name(target.repo_id)
    with _readable_errors("the Hub was asked who you are", target.token, _LOGIN, _LATER):
        from huggingface_hub import HfApi

        about = HfApi().whoami(token=target.token)
    role = ((about.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError(f"the token of '{about['name']}' may only read; {_LOGIN}")
    owner, slash, name = target.repo_id.partition("/")
    if not slash:
        return Target(f"{about['name']}/{owner}", target.private, target.revision, target.token)
    allowed = [about["name"], *(entry["name"] for entry in about.get("orgs") or [])]
    if owner not in allowed:
        raise HubError(
            f"key 'hub_model_id' has the value '{owner}/{name}', but the token belongs to {', '.join(allowed)}; "
            f"choose a repository of theirs, or {_LOGIN}"
        )
    return target


def _check_name(repo_id: str) -> None:
    """What the Hub would refuse after the work: a default name comes from a folder, which may be called anything."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise HubError(f"a repository cannot be called '{repo_id}'; give another name as 'hub_model_id'") from None


def push_folder(
    folder: Path, target: Target, *, patterns: Sequence[str] = SAFE_FILES, message: str
) -> tuple[str, str]:
    """Upload what `patterns` name of `folder`: (address, commit). The repository and its branch are made if missing.

    Weights that lie there and not here are removed: a loader would prefer an old `model.safetensors` to new shards.
    Raises `HubError` naming the remedy; the folder stays as it is.
    """
    with _readable_errors(f"{folder} was not pushed to {target.repo_id}", target.token, _AGAIN, _LATER):
        from huggingface_hub import HfApi

        api = HfApi(token=target.token)
        api.create_repo(target.repo_id, private=target.private, exist_ok=True)
        if target.revision is not None:
            api.create_branch(target.repo_id, branch=target.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=target.repo_id,
            folder_path=folder,
            revision=target.revision,
            commit_message=message,
            allow_patterns=list(patterns),
            delete_patterns=["*.safetensors", "*.safetensors.index.json"],
        )
    return f"{api.endpoint}/{target.repo_id}", done.oid


def push_once(
    folder: Path, record: Path, target: Target, *, patterns: Sequence[str] = SAFE_FILES, message: str
) -> tuple[str, bool]:
    """`push_folder` unless `record` says that this very content lies there already: (address, whether it was pushed).

    The record is written after the push, so one that failed is tried again at the next start.
    """
    wanted = (target.repo_id, target.revision, content_digest(folder, patterns))
    known = read_pushed(record)
    if known is not None and wanted == (known.repo_id, known.revision, known.content):
        return known.url, False
    url, commit = push_folder(folder, target, patterns=patterns, message=message)
    write_record(record, Pushed(*wanted, url, commit), _RECORD_FORMAT)
    return url, True


def read_pushed(record: Path) -> Pushed | None:
    """What was pushed last; None if nothing was."""
    if not record.is_file():
        return None
    return read_record(record, Pushed, _RECORD_FORMAT, "delete it and start again, which pushes anew")


def content_digest(folder: Path, patterns: Sequence[str]) -> str:
    """Sixteen hex digits of names, sizes and the first and last MiB of the files that would be pushed."""
    from huggingface_hub.utils import filter_repo_objects  # which the push asks as well

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    pushed = filter_repo_objects(names, allow_patterns=list(patterns))
    return sampled_digest((name, folder / name) for name in pushed)


def snapshot(name: str, patterns: Sequence[str] = SAFE_FILES) -> Path:
    """The folder of a repository's snapshot in the Hub's cache; fetched where it is not there. `name` may end in
    `@revision`. Raises `HubError` naming the remedy."""
    repo_id, revision = split_revision(name)
    remedy = "look at its name and revision; a private or gated one needs `hf auth login`"
    with _readable_errors(f"{name} could not be fetched from the Hub", None, remedy):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def _readable_errors(what: str, token: str | None, remedy: str, way_out: str = "") -> Iterator[None]:
    """Turns what the client raises into a `HubError`: `what` was attempted, and the remedy; `way_out` stands behind
    the remedy where the Hub is out of reach."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except LocalTokenNotFoundError:
        raise HubError(f"{what}: no token found; {_LOGIN}") from None
    except InputError:
        raise
    except (OfflineModeIsEnabled, httpx.HTTPError, HFValidationError, OSError, ValueError, RuntimeError) as error:
        if is_no_space(error):  # of this disk, not of the Hub
            raise
        if constants.HF_HUB_OFFLINE:
            remedy = f"HF_HUB_OFFLINE is set: unset it{way_out}"
        elif isinstance(error, (httpx.TransportError, LocalEntryNotFoundError)):
            remedy = f"the Hub is out of reach: look at the network and HF_ENDPOINT{way_out}"
        raise HubError(f"{what}: {_without_secrets(error, token)}; {remedy}") from None


def _without_secrets(error: Exception, token: str | None) -> str:
    """The first line of a message; no token, should a server have sent it back."""
    from huggingface_hub import get_token

    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    for secret in filter(None, (token, get_token())):
        text = text.replace(secret, "***")
    return text.rstrip(".;")
