"""Drawing follows the distribution, its filters keep what they promise, numbers depend on seed and index alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper

from secateur.engines.base import SamplingSpec
from secateur.engines.local.drawing import UniformStream, draw_tokens, token_confidences

GRID = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


def shares(logits: torch.Tensor, spec: SamplingSpec, grid: torch.Tensor = GRID) -> torch.Tensor:
    """Share of each token over an even grid of uniform numbers: the drawn distribution, without chance."""
    tokens = draw_tokens(logits.expand(len(grid), -1), grid, spec)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / len(grid)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 0.95), (1.3, 7, 1.0), (0.8, 9, 0.7), (1.0, 50, 0.01)]
)
def test_drawn_shares_are_those_of_the_filters_of_generate(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)) * 2
    scores = logits.double() / temperature
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    wanted = torch.softmax(scores, dim=-1)[0]
    drawn = shares(logits, SamplingSpec(temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(drawn.double(), wanted, rtol=0, atol=2e-4)
    assert not drawn[wanted == 0].any()


def test_a_flat_distribution_over_a_large_vocabulary_needs_the_full_sort() -> None:
    drawn = shares(torch.linspace(0, 0.01, 2000).unsqueeze(0), SamplingSpec(top_p=0.5), GRID[::20])
    assert not drawn[:990].any() and drawn[1010:].count_nonzero() > 480


def test_temperature_zero_takes_the_best() -> None:
    logits = torch.randn(9, 30)
    assert torch.equal(draw_tokens(logits, GRID[:9], SamplingSpec(temperature=0)), logits.argmax(-1))


@given(st.integers(0, 2**63 - 1), st.integers(1, 400))
def test_numbers_depend_on_seed_and_index(seed: int, count: int) -> None:
    first, second = UniformStream(seed), UniformStream(seed)
    numbers = [first.next() for _ in range(count)]
    assert numbers == [second.next() for _ in range(count)]
    assert all(0 <= number < 1 for number in numbers)


def test_neighbouring_seeds_are_unrelated() -> None:
    numbers = np.array([[stream.next() for _ in range(64)] for stream in map(UniformStream, range(64))])
    assert abs(np.corrcoef(numbers) - np.eye(64)).max() < 0.6
    assert 0.45 < numbers.mean() < 0.55


@pytest.mark.parametrize("top", [1, 3, 8, 99])
def test_confidence_is_minus_the_mean_of_the_top_log_probabilities(top: int) -> None:
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(2)) * 3
    best = torch.log_softmax(logits.double(), dim=-1).sort(dim=-1, descending=True).values[:, :top]
    torch.testing.assert_close(token_confidences(logits, top).double(), -best.mean(dim=-1), rtol=1e-5, atol=1e-5)


def test_a_certain_model_is_more_confident() -> None:
    flat, sharp = torch.zeros(1, 50), torch.zeros(1, 50).index_fill_(1, torch.tensor([7]), 20.0)
    assert token_confidences(flat, 20).item() == pytest.approx(np.log(50))
    assert token_confidences(sharp, 20) > token_confidences(flat, 20)
