"""Drawing follows the distribution, its filters keep what they promise, numbers depend on seed and index alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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


@pytest.mark.parametrize("vocabulary", [30, 9001])
def test_temperature_zero_takes_the_best(vocabulary: int) -> None:
    logits = torch.randn(9, vocabulary)
    assert torch.equal(draw_tokens(logits, GRID[:9], SamplingSpec(temperature=0)), logits.argmax(-1))


def reference(logits: np.ndarray, uniform: float, spec: SamplingSpec) -> int:
    """The cumulative distribution inverted, in float64 with numpy: by id, or by falling logit under a filter."""
    filtered = bool(spec.top_k) or spec.top_p < 1
    order = np.argsort(-logits, kind="stable") if filtered else np.arange(len(logits))
    scaled = logits[order] / spec.temperature
    weights = np.exp(scaled - scaled.max())[: spec.top_k or None]
    ends = np.cumsum(weights)
    if filtered:
        kept = max(int((ends - weights < spec.top_p * weights.sum()).sum()), 1)
        ends = ends[:kept]
    return int(order[min(np.searchsorted(ends, uniform * ends[-1], side="right"), len(ends) - 1)])


SPECS = st.builds(
    SamplingSpec,
    temperature=st.sampled_from([0.3, 0.6, 1.0, 1.7]),
    top_p=st.sampled_from([0.05, 0.8, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 8, 20, 50, 300]),
)


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 9),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    st.integers(4090, 4100) | st.integers(9_000, 9_100),
    SPECS,
)
@settings(max_examples=150, deadline=None)
def test_every_token_is_that_of_float64_whatever_the_other_rows(
    seed: int, spread: float, dtype: torch.dtype, vocabulary: int, spec: SamplingSpec
) -> None:
    """16 bits give hundreds of equal logits; rows of very different spread share the batch; the last third of each
    row is banned."""
    generator = torch.Generator().manual_seed(seed)
    spreads = spread * torch.tensor([[1.0], [3.0], [0.01], [1.0], [0.2]])
    logits = (torch.randn(5, vocabulary, generator=generator) * spreads).to(dtype)
    logits[1::2, -vocabulary // 3 :] = float("-inf")
    uniforms = torch.rand(5, generator=generator, dtype=torch.float64)
    uniforms[4] = 0.0
    drawn = draw_tokens(logits, uniforms, spec)
    assert drawn.tolist() == [
        reference(row, float(uniform), spec) for row, uniform in zip(logits.double().numpy(), uniforms, strict=True)
    ]
    for row in range(5):
        alone = draw_tokens(logits[row : row + 1], uniforms[row : row + 1], spec)
        assert alone.item() == drawn[row]


@pytest.mark.parametrize("spec", [SamplingSpec(), SamplingSpec(top_p=0.95), SamplingSpec(temperature=0.6, top_p=0.9)])
@pytest.mark.parametrize("spread", [0.6, 4.0])
def test_numbers_at_the_edges_of_tokens_fall_where_float64_puts_them(spec: SamplingSpec, spread: float) -> None:
    """Numbers within 1e-9 of a boundary, which sums in float32 cannot tell apart, over a real vocabulary's size."""
    logits = torch.randn(1, 151_936, generator=torch.Generator().manual_seed(3)) * spread
    values = logits[0].double().numpy()
    order = np.argsort(-values, kind="stable") if spec.top_p < 1 else np.arange(len(values))
    weights = np.exp((values[order] - values.max()) / spec.temperature)
    ends = weights.cumsum()
    kept = int((ends - weights < spec.top_p * weights.sum()).sum())
    for place in np.argsort(-weights[:kept])[:3]:
        for uniform in (ends[place] / ends[kept - 1] - 1e-9, ends[place] / ends[kept - 1] + 1e-9):
            token = draw_tokens(logits, torch.tensor([uniform], dtype=torch.float64), spec)
            assert token.item() == reference(values, uniform, spec)


@pytest.mark.parametrize("spec", [SamplingSpec(), SamplingSpec(top_p=0.9), SamplingSpec(top_k=5)])
@pytest.mark.parametrize("vocabulary", [30, 9001])
def test_a_row_without_numbers_gives_some_token_and_disturbs_no_other(spec: SamplingSpec, vocabulary: int) -> None:
    """A checkpoint that diverged is to be validated, and found bad, like any other."""
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(5)) * 4
    alone = draw_tokens(logits, GRID[::9000][:3], spec)
    logits[1] = float("nan")
    drawn = draw_tokens(logits, GRID[::9000][:3], spec)
    assert drawn[0] == alone[0] and drawn[2] == alone[2] and 0 <= drawn[1] < vocabulary


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


@pytest.mark.parametrize("vocabulary", [8, 9001])
@pytest.mark.parametrize("top", [1, 3, 8, 99])
def test_confidence_is_minus_the_mean_of_the_top_log_probabilities(top: int, vocabulary: int) -> None:
    logits = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(2)) * 3
    best = torch.log_softmax(logits.double(), dim=-1).sort(dim=-1, descending=True).values[:, :top]
    torch.testing.assert_close(token_confidences(logits, top).double(), -best.mean(dim=-1), rtol=1e-5, atol=1e-5)


def test_a_certain_model_is_more_confident() -> None:
    flat, sharp = torch.zeros(1, 50), torch.zeros(1, 50).index_fill_(1, torch.tensor([7]), 20.0)
    assert token_confidences(flat, 20).item() == pytest.approx(np.log(50))
    assert token_confidences(sharp, 20) > token_confidences(flat, 20)
