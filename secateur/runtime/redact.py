"""Settings for others to read: what is secret keeps its name only."""

from collections.abc import Mapping
from typing import Any

LEFT_OUT = "(left out)"
_SECRET = ("token", "_key", "apikey", "password", "secret", "authorization")  # that names of keys end with


def without_secrets(value: Any) -> Any:
    """Nested keys whose names end like a secret's keep their name only.

    >>> without_secrets({"a": 1, "init": [{"hub_token": "x", "token": "y", "max_tokens": 9}]})
    {'a': 1, 'init': [{'hub_token': '(left out)', 'token': '(left out)', 'max_tokens': 9}]}
    """
    if isinstance(value, Mapping):
        return {
            key: LEFT_OUT if str(key).lower().endswith(_SECRET) else without_secrets(entry)
            for key, entry in value.items()
        }
    return [without_secrets(entry) for entry in value] if isinstance(value, (list, tuple)) else value
