"""Focal loss and the minority weight, compared with their definitions."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trainers.judges.fit import focal_loss, minority_label, minority_weights

logit = st.floats(-20, 20, allow_nan=False)
pairs = st.lists(st.tuples(logit, st.integers(0, 1)), min_size=1, max_size=30)


def tensors(values: list[tuple[float, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels = zip(*values, strict=True)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


@given(pairs)
def test_gamma_zero_is_binary_cross_entropy(values):
    logits, labels = tensors(values)
    expected = F.binary_cross_entropy_with_logits(logits, labels.double())
    assert torch.allclose(focal_loss(logits, labels, gamma=0.0), expected)


@given(pairs, st.floats(0, 5), st.floats(0.05, 0.95))
def test_equals_the_formula_of_the_paper(values, gamma, alpha):
    logits, labels = tensors(values)
    p = torch.sigmoid(logits)
    p_t = torch.where(labels == 1, p, 1 - p)
    alpha_t = torch.where(labels == 1, alpha, 1 - alpha)
    expected = (-alpha_t * (1 - p_t) ** gamma * torch.log(p_t)).mean()
    assert torch.allclose(focal_loss(logits, labels, gamma, alpha), expected, atol=1e-6)


def test_takes_weight_from_easy_pairs_more_than_from_hard_ones():
    easy, hard, label = torch.tensor([4.0]), torch.tensor([-1.0]), torch.tensor([1])
    kept_easy = focal_loss(easy, label, 2.0) / focal_loss(easy, label, 0.0)
    kept_hard = focal_loss(hard, label, 2.0) / focal_loss(hard, label, 0.0)
    assert kept_easy < 0.01 < 0.5 < kept_hard


def test_gradient_is_finite_where_the_model_is_certain():
    logits = torch.tensor([60.0, -60.0, 60.0, -60.0], requires_grad=True)
    focal_loss(logits, torch.tensor([1, 0, 0, 1])).backward()
    assert torch.isfinite(logits.grad).all()


@given(pairs)
def test_minority_weight_equals_showing_those_pairs_twice(values):
    logits, labels = tensors(values)
    minority = minority_label(labels)
    again = labels == minority
    twice = focal_loss(torch.cat([logits, logits[again]]), torch.cat([labels, labels[again]]))
    assert torch.allclose(focal_loss(logits, labels, weights=minority_weights(labels, minority, 2.0)), twice)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=50))
def test_minority_is_the_rarer_label(labels):
    rarer = minority_label(torch.tensor(labels))
    counts = np.bincount(labels, minlength=2)
    assert counts[rarer] <= counts[1 - rarer]
