"""Stub until the registry of judge kinds lands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeKind:
    name: str
    label: str
    is_chance: bool = False
    is_similarity: bool = False
    reads_states: bool = False
    reads_tokens: bool = False
    needs_folder: bool = True


JUDGE_KINDS = {
    "linear_own_states": JudgeKind("linear_own_states", "own states", reads_states=True),
    "linear": JudgeKind("linear", "linear", reads_tokens=True),
    "pairwise": JudgeKind("pairwise", "pairwise", reads_tokens=True),
    "embedding": JudgeKind("embedding", "embedding", reads_tokens=True, is_similarity=True),
    "values": JudgeKind("values", "values", is_similarity=True, needs_folder=False),
    "tfidf": JudgeKind("tfidf", "tfidf", is_similarity=True, needs_folder=False),
    "token_embedding": JudgeKind("token_embedding", "token embedding", is_similarity=True, needs_folder=False),
    "random": JudgeKind("random", "random", is_chance=True, needs_folder=False),
}
