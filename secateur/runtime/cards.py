"""Model cards: Markdown from a Jinja2 template in which every value from outside is escaped.

Templates escape by default: a value is text of others unless it was made by `code_span`, `safe_number` or a filter of
this module. Front matter is written by huggingface_hub, so that it reads it back. `describe_base` says where a model
comes from and under which licence: what its own folder or its repository on the Hub says.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from secateur.runtime.files import write_text

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json
from secateur.runtime.hub import HubError, cached_id, is_hub_id, snapshot, split_revision

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&]|@(?=[\w-]+\.))")
_AT_START = re.compile(r"^([-+](?=\s)|[=#]|\d+(?=[.)]\s))")
_MAX_CHARACTERS = 2000
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, direction marks, line separators


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""


def clean(value: object) -> str:
    """One line without control and direction marks, cut at 2,000 characters.

    >>> clean("a\\n\\u202eb")
    'a b'
    """
    text = " ".join(str(value).split())
    text = "".join(character for character in text if unicodedata.category(character) not in _UNSEEN)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def escape_markdown(value: object) -> Markdown:
    """Text that shows as itself: no link, no emphasis, no HTML, no table cell, no address that is made a link.

    >>> escape_markdown("<b>[x](http://y)|_z_")
    '\\\\<b\\\\>\\\\[x\\\\](http\\\\://y)\\\\|\\\\_z\\\\_'
    """
    if isinstance(value, Markdown):
        return value
    text = _SPECIAL.sub(r"\\\1", clean(value))
    text = _AT_START.sub(lambda found: _harmless(found[1]), text)
    return Markdown(text.replace("://", "\\://").replace("www.", "www\\."))


def _harmless(start: str) -> str:
    """What would begin a list or a heading: a number keeps its look through an entity for its first digit."""
    return f"&#{ord(start[0])};{start[1:]}" if start[0].isdigit() else f"\\{start}"


def code_span(value: object) -> Markdown:
    """Text in a code span that it cannot leave, also inside a table.

    >>> print(code_span("a`b|c"))
    ``a`b\\|c``
    """
    text = clean(value).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def literal(value: object) -> Markdown:
    """A value as Python and JSON write it, for a fenced block of code: no line break, no backtick.

    >>> print(literal('a"```'))
    "a\\"\\u0060\\u0060\\u0060"
    """
    known = clean(value) if isinstance(value, str) else value
    return Markdown(json.dumps(known, ensure_ascii=False).replace("`", "\\u0060"))


def exact_literal(text: str) -> Markdown:
    """The same letter by letter, line breaks too: for a text that has to come out as it went in.

    >>> print(exact_literal("a\\n“`”"))
    "a\\n\\u201c\\u0060\\u201d"
    """
    return Markdown(json.dumps(text).replace("`", "\\u0060"))


def figure(value: float | None, form: str = ".3f") -> Markdown:
    return Markdown("–" if value is None else f"{value:{form}}")


def tokens(value: float | None) -> Markdown:
    """Whole numbers from 1,000 on, one decimal below."""
    return Markdown("–" if value is None else f"{value:{',.0f' if abs(value) >= 1000 else ',.1f'}}")


def interval(bounds: Sequence[float] | None, form: str = ".3f") -> Markdown:
    return Markdown("" if not bounds else f"{bounds[0]:{form}} – {bounds[1]:{form}}")


def tokens_interval(bounds: Sequence[float] | None) -> Markdown:
    return Markdown("" if not bounds else f"{tokens(bounds[0])} – {tokens(bounds[1])}")


def signed(value: float) -> Markdown:
    """
    >>> print(signed(-0.25), signed(1))
    − 0.250 + 1.000
    """
    return Markdown(f"{'−' if value < 0 else '+'} {abs(value):.3f}")


def fence(value: object) -> Markdown:
    """Lines of text in a fenced block that they cannot leave."""
    lines = [" " * (len(line) - len(line.lstrip(" "))) + clean(line) for line in str(value).splitlines()]
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", str(value))), default=0))
    return Markdown("\n".join([f"{marks}text", *lines, marks]))


def render_card(template: Path, data: "ModelCardData", context: Mapping[str, object]) -> str:
    """The whole card: front matter of `data` and the body of `template`."""
    from huggingface_hub import ModelCard

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        finalize=escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    filters = {"code": code_span, "literal": literal, "figure": figure, "tokens": tokens, "interval": interval}
    filters |= {"tokens_interval": tokens_interval, "signed": signed, "fence": fence}
    environment.filters.update(filters)
    body = environment.get_template(template.name).render(**context)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def write_card(folder: Path, card: str) -> bool:
    """Replace `folder`/README.md unless it holds this very card; whether it was written."""
    path = folder / "README.md"
    if path.is_file() and path.read_text(encoding="utf-8") == card:
        return False
    write_text(path, card)
    return True


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
        return ModelCard(path.read_text(encoding="utf-8-sig"), ignore_metadata_errors=True).data.to_dict()
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


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Name → version of those that are installed, in the order given."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
