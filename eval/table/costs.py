"""What the tokens of a row cost in money, by prices per million tokens. Pure functions.

Billed as an API bills: the prompt of a problem once (one request with n completions, or a server that keeps
prefixes), every token that a trace generated or overran, and what forced answers and the judge read, re-read from
their caches and generated. A judge of the generator's own states reads nothing and costs nothing here; its head is in
the net saving.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.engines.accounting import Usage
from secateur.results import Cost
from secateur.runtime.errors import InputError

PRICE_KEYS = ("prompt", "cached", "generated")
_MILLION = 1_000_000


@dataclass(frozen=True)
class TokenPrices:
    """Money per million tokens, in any one currency."""

    prompt: float
    cached: float
    generated: float


def read_prices(
    prices: Mapping[str, Mapping[str, float]], models: Mapping[str, str], judges: Mapping[str, str]
) -> dict[str, TokenPrices]:
    """Name → prices, of the models and of the judges that read tokens; {} if no prices are given.

    `models` and `judges` say what each name that needs a price is, for messages. Raises `InputError` for a name that
    needs none, one that is missing, a wrong key or a price below zero.
    """
    if not prices:
        return {}
    known = models.keys() | judges.keys()
    for name, values in prices.items():
        if name not in known:
            raise InputError(
                f"key 'prices' names '{name}', which is no model and no judge that reads tokens; choose from "
                f"{', '.join(sorted(known))}"
            )
        _check_values(name, values)
    for name in (name for name in (*models, *judges) if name not in prices):
        what = models.get(name) or judges[name]
        raise InputError(
            f"key 'prices' has none for '{name}' ({what}); add {name}: {{prompt: …, cached: …, generated: …}} per "
            "million tokens, or leave 'prices' out"
        )
    return {name: TokenPrices(**values) for name, values in prices.items()}


def _check_values(name: str, values: Mapping[str, float]) -> None:
    if set(values) != set(PRICE_KEYS):
        raise InputError(
            f"key 'prices.{name}' has {', '.join(values) or 'nothing'}; give {', '.join(PRICE_KEYS)}, each per "
            "million tokens (0 if it is free)"
        )
    for key, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"key 'prices.{name}.{key}' has the value {value}; give 0 or more per million tokens")


def cost_of(
    usage: Usage, problems: int, prompt_tokens: float, generator: TokenPrices, judge: TokenPrices | None
) -> Cost:
    """What `usage` spent on all `problems`.

    `prompt_tokens` is the mean length of a prompt [tokens]; `judge` is None where no judge reads tokens.
    """
    spent = problems * prompt_tokens * generator.prompt
    spent += (usage.generated + usage.overrun + usage.probe_generated) * generator.generated
    spent += usage.probe_prefill * generator.prompt + usage.probe_cached * generator.cached
    if judge is not None:
        spent += usage.judge_prefill * judge.prompt + usage.judge_cached * judge.cached
        spent += usage.judge_generated * judge.generated
    per_problem = spent / _MILLION / problems
    return Cost(per_problem, 1000 * per_problem)
