"""Secateur cuts the tokens that long-thinking language models waste, inside a trace and across parallel traces.

    from secateur import TransformersEngine, prune

    result = prune("What is 17 · 23?", TransformersEngine("path/of/model"), n=64)

What is here is the public API. Each name is loaded when it is asked for, so that `import secateur` costs nothing and
the pure parts come without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.deepprune.answers import AHEAD, FEWEST_TOKENS, SHORTEST_WAIT, AnswerRule
    from secateur.deepprune.controller import run_live
    from secateur.deepprune.cut import CutRule
    from secateur.deepprune.driver import Busy, Load, PruneProgress, TraceProgress
    from secateur.deepprune.evidence import EVIDENCE_RULE, EvidenceRule
    from secateur.deepprune.job import LiveResult, ProblemJob, TraceResult
    from secateur.deepprune.judges.base import Judge, JudgeError
    from secateur.deepprune.judges.folder import load_judge
    from secateur.deepprune.policy import Decision
    from secateur.deepprune.prune import PruneResult, prune
    from secateur.deepprune.pruner import Pruner
    from secateur.deepprune.rule import (
        ADAPTIVE_RULE,
        PUBLISHED_RULE,
        ClusterRule,
        FinishRule,
        PruneRule,
        StartRule,
    )
    from secateur.deepprune.starting import OnDemand, StartingPolicy
    from secateur.deepprune.stopping import Lead, StoppingRule
    from secateur.engines.accounting import Usage
    from secateur.engines.base import Engine, EngineError, SamplingSpec
    from secateur.engines.local.engine import TransformersEngine
    from secateur.engines.openai.engine import OpenAIEngine
    from secateur.engines.vllm.engine import VLLMEngine
    from secateur.results import Row, Table, read_table
    from secateur.runtime.errors import InputError
    from secateur.tasks.answers.kinds import Answers

_HOMES = {
    "deepprune.prune": ("prune", "PruneResult"),
    "deepprune.pruner": ("Pruner",),
    "deepprune.driver": ("PruneProgress", "TraceProgress", "Load", "Busy"),
    "deepprune.controller": ("run_live",),
    "deepprune.job": ("ProblemJob", "LiveResult", "TraceResult"),
    "deepprune.policy": ("Decision",),
    "deepprune.judges.folder": ("load_judge",),
    "deepprune.judges.base": ("Judge", "JudgeError"),
    "deepprune.rule": ("PruneRule", "ClusterRule", "StartRule", "FinishRule", "ADAPTIVE_RULE", "PUBLISHED_RULE"),
    "deepprune.cut": ("CutRule",),
    "deepprune.evidence": ("EvidenceRule", "EVIDENCE_RULE"),
    "deepprune.answers": ("AnswerRule", "AHEAD", "FEWEST_TOKENS", "SHORTEST_WAIT"),
    "deepprune.stopping": ("StoppingRule", "Lead"),
    "deepprune.starting": ("StartingPolicy", "OnDemand"),
    "engines.base": ("Engine", "SamplingSpec", "EngineError"),
    "engines.local.engine": ("TransformersEngine",),
    "engines.vllm.engine": ("VLLMEngine",),
    "engines.openai.engine": ("OpenAIEngine",),
    "engines.accounting": ("Usage",),
    "results": ("Table", "Row", "read_table"),
    "runtime.errors": ("InputError",),
    "tasks.answers.kinds": ("Answers",),
}
_HOME_OF = {name: f"secateur.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "ADAPTIVE_RULE",
    "AHEAD",
    "EVIDENCE_RULE",
    "FEWEST_TOKENS",
    "PUBLISHED_RULE",
    "SHORTEST_WAIT",
    "AnswerRule",
    "Answers",
    "Busy",
    "ClusterRule",
    "CutRule",
    "Decision",
    "Engine",
    "EngineError",
    "EvidenceRule",
    "FinishRule",
    "InputError",
    "Judge",
    "JudgeError",
    "Lead",
    "LiveResult",
    "Load",
    "OnDemand",
    "OpenAIEngine",
    "ProblemJob",
    "PruneProgress",
    "PruneResult",
    "PruneRule",
    "Pruner",
    "Row",
    "SamplingSpec",
    "StartRule",
    "StartingPolicy",
    "StoppingRule",
    "Table",
    "TraceProgress",
    "TraceResult",
    "TransformersEngine",
    "Usage",
    "VLLMEngine",
    "load_judge",
    "prune",
    "read_table",
    "run_live",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("secateur")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'secateur' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
