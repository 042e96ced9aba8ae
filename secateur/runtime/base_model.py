"""Where a model comes from and under which licence: what its own folder or its repository on the Hub says."""

from dataclasses import dataclass
from pathlib import Path

from secateur.runtime.cards import clean
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json
from secateur.runtime.hub import HubError, cached_id, is_hub_id, snapshot, split_revision

LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_KEYS = ("license", "license_name", "license_link")
# Words that the text of a licence begins with, and its name on the Hub; the narrower one first.
_TEXTS = (
    ("apache-2.0", ("Apache License", "Version 2.0")),
    ("mit", ("MIT License",)),
    ("mit", ("Permission is hereby granted, free of charge",)),
    ("bsd-3-clause", ("Redistribution and use in source and binary forms", "Neither the name")),
    ("bsd-2-clause", ("Redistribution and use in source and binary forms",)),
)


@dataclass(frozen=True)
class BaseModel:
    """`hub_id`: repository of the model, or of the one that its own card names; None if neither is known. `licence`:
    keys of a card's front matter, empty where unknown; `source` says where it was read, or why it is not known.
    `files` are the licence texts."""

    name: str
    hub_id: str | None
    is_itself: bool
    licence: dict[str, str]
    source: str
    files: tuple[Path, ...] = ()


def describe_base(model: str) -> BaseModel:
    """What is known of the model that a training started from. Never fails: a Hub out of reach leaves things unknown.

    model: a folder or a Hub id.
    """
    folder, reason = _folder_of(model)
    card = _front_matter(folder) if folder else {}
    own = split_revision(model)[0] if is_hub_id(model) else cached_id(model)
    parent = card.get("base_model")
    parent = parent[0] if isinstance(parent, list) and parent else parent
    hub_id = own or (parent if isinstance(parent, str) and is_hub_id(parent) else None)
    files = _licence_files(folder) if folder else ()
    licence, source = _licence(folder, card, files) if folder else ({}, reason)
    link = licence.get("license_link")
    if own and link and not files and "://" not in link:  # a file of that repository, which does not lie here
        licence = licence | {"license_link": f"https://huggingface.co/{own}/blob/main/{link}"}
    return BaseModel(own or model, hub_id, own is not None, licence, source, files)


def _licence_files(folder: Path) -> tuple[Path, ...]:
    """Files only: some repositories keep a folder LICENSES."""
    found = {path for pattern in LICENCE_FILES for path in folder.glob(pattern)}
    return tuple(sorted(path for path in found if path.is_file()))


def _folder_of(model: str) -> tuple[Path | None, str]:
    if Path(model).is_dir():
        return Path(model), ""
    try:
        return snapshot(model, ("README.md", "config.json", *LICENCE_FILES)), ""
    except HubError:
        return None, "its repository could not be read"


def _front_matter(folder: Path) -> dict[str, JSON]:
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except Exception:  # a card is written by anybody, and its reader raises what its YAML raises
        return {}


def _licence(folder: Path, card: dict[str, JSON], files: tuple[Path, ...]) -> tuple[dict[str, str], str]:
    """Card first, then config.json, then the text of a licence."""
    found = {key: clean(card[key]) for key in _KEYS if isinstance(card.get(key), str)}
    if "license" in found:
        return found, "its own model card"
    try:
        named = read_json(folder / "config.json").get("license")
    except InputError:
        named = None
    if isinstance(named, str):
        return {"license": clean(named)}, "its config.json"
    for path in files:
        head = path.read_text(encoding="utf-8", errors="replace")[:20_000]
        for name, words in _TEXTS:
            if all(word in head for word in words):
                return {"license": name}, f"its file {path.name}"
    if files:
        return {"license": "other", "license_name": "see-file", "license_link": files[0].name}, "its licence file"
    if cached_id(folder) and not (folder / "README.md").is_file():  # fetched without, and the Hub is out of reach
        return {}, "its own model card is not in the Hub's cache"
    return {}, "neither its card nor its files name one"
