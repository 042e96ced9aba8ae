"""The keys of a dry run of scripts that sample."""

from dataclasses import dataclass

from runtime.plan_keys import PlanKeys


@dataclass(kw_only=True)
class SamplingPlanKeys(PlanKeys):
    """Lengths that a dry run cannot know.

    mean_tokens, mean_cut_tokens: expected mean length of a trace, and of its part up to the cut [tokens]; by default
      what was measured on traces of the same models, else half the cap and, for cuts at words, the whole trace.
    """

    mean_tokens: float | None = None
    mean_cut_tokens: float | None = None
