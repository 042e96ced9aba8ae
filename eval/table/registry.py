"""The methods of the table, by name, in the order of its rows."""

from collections.abc import Mapping

from eval.table.answers import (
    ADAPTIVE_CONSISTENCY,
    AHEAD,
    AHEAD_WAIT,
    ANSWERS,
    BAYES_THREE,
    CANNOT_CHANGE,
    CERTIFICATE,
    CONSOL,
    CONSOL_MIXTURE,
    EARLY_STOPPING,
    FIRST_ENDED,
    MARS,
    NAMED_RULES,
    PARALLEL_PROBE,
)
from eval.table.deepconf import DEEPCONF_HIGH, DEEPCONF_LOW
from eval.table.method import Method, ReplayKeys
from eval.table.pruning import DEEPPRUNE, EQUAL_TOKENS_CONTROL, EVIDENCE, PUBLISHED, RANDOM_CONTROL
from eval.table.scored import SCORE_ORDER, SCORE_VOTE, STEP_WORST, STOP_BEST
from eval.table.similarity import EMBEDDING, POLR
from eval.table.votes import CONSENSUS, ORACLE, SINGLE

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        *(SINGLE, CONSENSUS, ORACLE, AHEAD, AHEAD_WAIT, NAMED_RULES),
        *(ADAPTIVE_CONSISTENCY, EARLY_STOPPING, CONSOL, CONSOL_MIXTURE, BAYES_THREE, CERTIFICATE),
        *(FIRST_ENDED, CANNOT_CHANGE, PARALLEL_PROBE, MARS, DEEPCONF_LOW, DEEPCONF_HIGH, EMBEDDING, POLR),
        *(SCORE_VOTE, SCORE_ORDER, STOP_BEST, STEP_WORST),
        *(EVIDENCE, DEEPPRUNE, RANDOM_CONTROL, EQUAL_TOKENS_CONTROL),
    )
}
METHOD_KEYS = tuple(dict.fromkeys(method.keys for method in METHODS.values() if method.keys is not ReplayKeys))
"""The options of all methods, each a dataclass."""
_UNKNOWN_MARK = "M-7-3.5h14v7h-14Z"
_VARIANT_MARK = "M0-7.5 6.5-3.75V3.75L0 7.5-6.5 3.75V-3.75Z"
_FAMILIES = {f"{name}_": name for name in (PUBLISHED, ANSWERS)}


def _family(name: str) -> tuple[str, str]:
    """The method that a row's belongs to, and the name of its variant, "" for the method itself."""
    for prefix, family in _FAMILIES.items():
        if name.startswith(prefix):
            return family, name.removeprefix(prefix)
    return name, ""


def method_of(name: str) -> Method:
    """The method of a row; a variant of DeepPrune is DeepPrune. Raises `KeyError` for an unknown one."""
    return METHODS[_family(name)[0]]


def prunes(name: str) -> bool:
    """Whether a row's method is a pruning rule with a judge."""
    return method_of(name).prunes


def method_label(name: str) -> str:
    """How a method is called in tables; a variant by its own name."""
    family, variant = _family(name)
    label = METHODS[family].label
    return f"{label}, {variant.replace('_', ' ')}" if variant else label


def method_about(name: str) -> str:
    """What a method does, in a few plain words; "" for one that does not say."""
    family, variant = _family(name)
    about = METHODS[family].about
    return f"{about}; with the keys of the variant {variant.replace('_', ' ')}" if variant and about else about


def method_mark(name: str) -> str:
    """The SVG path of a method's mark; the variants of DeepPrune share one."""
    family, variant = _family(name)
    return _VARIANT_MARK if variant and METHODS[family].prunes else METHODS[family].mark
