"""Model cards: Markdown from a Jinja2 template in which every value from outside is escaped.

Templates escape by default: a value is text of others unless it was made by `code_span`, `safe_number` or a filter of
this module. Front matter is written by huggingface_hub, so that it reads it back.
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
