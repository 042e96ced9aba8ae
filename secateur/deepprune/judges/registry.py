"""All kinds of judge by name, with everything that the rest of the program asks of a kind. Loads no torch.

JUDGE_KINDS["pairwise"].reads_tokens, JUDGE_KINDS["random"].is_chance, JUDGE_KINDS["linear_own_states"].label
"""

from collections.abc import Mapping
from pathlib import Path

from secateur.deepprune.judges import embedding, untrained
from secateur.deepprune.judges.base import JudgeError
from secateur.deepprune.judges.kind import JudgeKind
from secateur.deepprune.judges.kinds import linear, own_states, pairwise

_ALL: tuple[JudgeKind, ...] = (
    own_states.KIND,
    linear.KIND,
    pairwise.KIND,
    embedding.KIND,
    untrained.VALUES,
    untrained.TFIDF,
    untrained.TOKEN_EMBEDDING,
    untrained.RANDOM,
)
JUDGE_KINDS: Mapping[str, JudgeKind] = {kind.name: kind for kind in _ALL}
STORED = tuple(kind.name for kind in _ALL if kind.needs_folder)
"""Kinds of judges that lie in a folder; trainers/judge.py makes them."""
UNTRAINED = tuple(kind.name for kind in _ALL if not kind.needs_folder)
"""Kinds that are asked for by their name alone."""
DEFAULT = own_states.KIND
"""The kind that is trained where none is named."""


def stored_kind(name: str, folder: str | Path) -> JudgeKind:
    """The kind that the judge.json in `folder` names. Raises `JudgeError` for one that lies in no folder."""
    kind = JUDGE_KINDS.get(name)
    if kind is None or not kind.needs_folder:
        raise JudgeError(f"{folder}: a judge of the unknown kind '{name}'; known kinds: {', '.join(STORED)}")
    return kind
