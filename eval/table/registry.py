"""The methods of the table, by name, in the order of its rows."""

from collections.abc import Mapping

from eval.table.deepconf import DEEPCONF_HIGH, DEEPCONF_LOW
from eval.table.method import Method, ReplayKeys
from eval.table.pruning import DEEPPRUNE, EQUAL_TOKENS_CONTROL, PUBLISHED, RANDOM_CONTROL
from eval.table.sequential import ADAPTIVE_CONSISTENCY, EARLY_STOPPING
from eval.table.similarity import EMBEDDING
from eval.table.votes import CONSENSUS, ORACLE, SINGLE

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        *(SINGLE, CONSENSUS, ORACLE),
        *(ADAPTIVE_CONSISTENCY, EARLY_STOPPING, DEEPCONF_LOW, DEEPCONF_HIGH, EMBEDDING),
        *(DEEPPRUNE, RANDOM_CONTROL, EQUAL_TOKENS_CONTROL),
    )
}
METHOD_KEYS = tuple(dict.fromkeys(method.keys for method in METHODS.values() if method.keys is not ReplayKeys))
"""The options of all methods, each a dataclass."""
_VARIANT = f"{PUBLISHED}_"
_VARIANT_MARK = "M0-7.5 6.5-3.75V3.75L0 7.5-6.5 3.75V-3.75Z"
_UNKNOWN_MARK = "M-7-3.5h14v7h-14Z"


def method_of(name: str) -> Method:
    """The method of a row; a variant of DeepPrune is DeepPrune. Raises `KeyError` for an unknown one."""
    return METHODS[PUBLISHED if name.startswith(_VARIANT) else name]


def prunes(name: str) -> bool:
    """Whether a row's method is a pruning rule with a judge."""
    return method_of(name).prunes


def method_label(name: str) -> str:
    """How a method is called in tables; a variant of DeepPrune by its own name."""
    if name.startswith(_VARIANT):
        return f"{METHODS[PUBLISHED].label}, {name.removeprefix(_VARIANT).replace('_', ' ')}"
    return METHODS[name].label


def method_mark(name: str) -> str:
    """The SVG path of a method's mark; the variants of DeepPrune share one."""
    return _VARIANT_MARK if name.startswith(_VARIANT) else METHODS[name].mark
