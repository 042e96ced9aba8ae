"""The dashboard: one page that loads nothing but its own figures, from `/dashboard/data`.

Its policy allows the one style sheet and the one script that stand in it, known by their hashes, and calls of its own
server; texts of models are written as text.
"""

import base64
import hashlib
import re
from pathlib import Path

from secateur.runtime.pictures import COLOURS

_TEMPLATE = (Path(__file__).parent / "templates" / "dashboard.html").read_text(encoding="utf-8")
_PAGE = _TEMPLATE.replace("/* colours */\n", COLOURS)


def dashboard(needs_key: bool) -> str:
    """The page; one that needs a key asks for it before it calls."""
    return _PAGE.replace("<body>", "<body data-key>") if needs_key else _PAGE


def _hashed(tag: str) -> str:
    """The hash under which a policy allows the content of the page's one such element."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _PAGE, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_POLICY = {
    "default-src": "'none'",
    "script-src": _hashed("script"),
    "style-src": _hashed("style"),
    "connect-src": "'self'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Referrer-Policy": "no-referrer",
}
