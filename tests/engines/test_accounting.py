"""Savings obey arithmetic, and nothing that was spent can hide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.engines.accounting import Usage, net_cost, saving_gross, saving_net
from secateur.runtime.errors import InputError

counts = st.integers(0, 10**9)
usages = st.builds(Usage, *[counts] * 7)
PAID = ("generated", "overrun", "judge_prefill", "judge_generated", "judge_head")


@given(usages, usages, usages)
def test_usages_add_like_numbers(a: Usage, b: Usage, c: Usage) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Usage() == a
    assert (a + b).longest_path == max(a.longest_path, b.longest_path)


@given(usages, usages, counts, counts)
def test_cost_is_additive(a: Usage, b: Usage, generator: int, judge: int) -> None:
    assert net_cost(a + b, generator, judge) == net_cost(a, generator, judge) + net_cost(b, generator, judge)


@pytest.mark.parametrize("field", PAID)
@given(usage=usages, more=st.integers(1, 10**6))
def test_every_paid_column_costs(field: str, usage: Usage, more: int) -> None:
    assert net_cost(usage + Usage(**{field: more}), 3, 2) > net_cost(usage, 3, 2)


@given(usage=usages, more=counts)
def test_cached_judge_tokens_are_free(usage: Usage, more: int) -> None:
    assert net_cost(usage + Usage(judge_cached=more), 3, 2) == net_cost(usage, 3, 2)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_without_judge_and_overrun_net_is_gross_on_the_base_model(spent: int, reference: int, size: int) -> None:
    net = saving_net(
        Usage(generated=spent),
        generator_parameters=size,
        judge_parameters=0,
        reference_generated=reference,
        reference_parameters=size,
    )
    assert net == pytest.approx(saving_gross(spent, reference))


def test_an_example_by_hand() -> None:
    """40 tokens of a model half the size of the base, a judge as large as the base that reads 30, a small head."""
    spent = {"generated": 36, "overrun": 4, "judge_prefill": 29, "judge_generated": 1, "judge_head": 200}
    usage = Usage(**spent, judge_cached=50)
    net = saving_net(
        usage, generator_parameters=5, judge_parameters=10, reference_generated=100, reference_parameters=10
    )
    assert net == pytest.approx(1 - (5 * 40 + 10 * 30 + 200) / 1000)
    assert saving_gross(usage.generated, 100) == pytest.approx(0.64)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="never negative"):
        Usage(overrun=-1)
    with pytest.raises(InputError, match="reference_generated is 0"):
        saving_gross(1, 0)
