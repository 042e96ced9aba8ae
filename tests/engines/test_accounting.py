"""Savings obey arithmetic, and nothing that was spent can hide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.engines.accounting import TokenLedger, net_cost, saving_gross, saving_net
from secateur.runtime.errors import InputError

counts = st.integers(0, 10**9)
ledgers = st.builds(TokenLedger, *[counts] * 7)
PAID = ("generated", "overrun", "judge_prefill", "judge_generated", "judge_head")


@given(ledgers, ledgers, ledgers)
def test_ledgers_add_like_numbers(a: TokenLedger, b: TokenLedger, c: TokenLedger) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + TokenLedger() == a
    assert (a + b).longest_trace == max(a.longest_trace, b.longest_trace)


@given(ledgers, ledgers, counts, counts)
def test_cost_is_additive(a: TokenLedger, b: TokenLedger, generator: int, judge: int) -> None:
    assert net_cost(a + b, generator, judge) == net_cost(a, generator, judge) + net_cost(b, generator, judge)


@pytest.mark.parametrize("field", PAID)
@given(ledger=ledgers, more=st.integers(1, 10**6))
def test_every_paid_column_costs(field: str, ledger: TokenLedger, more: int) -> None:
    assert net_cost(ledger + TokenLedger(**{field: more}), 3, 2) > net_cost(ledger, 3, 2)


@given(ledger=ledgers, more=counts)
def test_cached_judge_tokens_are_free(ledger: TokenLedger, more: int) -> None:
    assert net_cost(ledger + TokenLedger(judge_cached=more), 3, 2) == net_cost(ledger, 3, 2)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_without_judge_and_overrun_net_is_gross_on_the_base_model(spent: int, reference: int, size: int) -> None:
    net = saving_net(
        TokenLedger(generated=spent),
        generator_parameters=size,
        judge_parameters=0,
        reference_generated=reference,
        reference_parameters=size,
    )
    assert net == pytest.approx(saving_gross(spent, reference))


def test_an_example_by_hand() -> None:
    """40 tokens of a model half the size of the base, a judge as large as the base that reads 30, a small head."""
    spent = {"generated": 36, "overrun": 4, "judge_prefill": 29, "judge_generated": 1, "judge_head": 200}
    ledger = TokenLedger(**spent, judge_cached=50)
    net = saving_net(
        ledger, generator_parameters=5, judge_parameters=10, reference_generated=100, reference_parameters=10
    )
    assert net == pytest.approx(1 - (5 * 40 + 10 * 30 + 200) / 1000)
    assert saving_gross(ledger.generated, 100) == pytest.approx(0.64)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="never negative"):
        TokenLedger(overrun=-1)
    with pytest.raises(InputError, match="reference_generated is 0"):
        saving_gross(1, 0)
