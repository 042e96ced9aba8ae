import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.clustering import Clustering
from secateur.deepprune.finishing import choose_survivors, never_needed
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.rule import FinishRule
from secateur.runtime.errors import InputError

SEEDS = st.integers(0, 2**63)


def no_scores(pairs: np.ndarray) -> np.ndarray:
    raise AssertionError("only the soft policy reads scores")


NO_SCORES = PairScores(100, no_scores)


@st.composite
def clusterings(draw: st.DrawFn) -> Clustering:
    labels = draw(st.lists(st.integers(0, 5), min_size=2, max_size=30))
    unassigned = draw(st.integers(0, 3))
    clusters = [[trace for trace, label in enumerate(labels) if label == wanted] for wanted in dict.fromkeys(labels)]
    return Clustering(clusters, list(range(len(labels), len(labels) + unassigned)), 0)


@settings(deadline=None)
@given(clusterings(), st.integers(1, 12), st.sets(st.integers(0, 32)), SEEDS)
def test_survivors_of_the_largest_cluster(clustering: Clustering, k2: int, whole: set[int], seed: int) -> None:
    if all(len(members) == 1 for members in clustering.clusters):
        return
    survivors, weights = choose_survivors(clustering, FinishRule(largest=k2), NO_SCORES, seed, whole)
    largest = max(clustering.clusters, key=len)
    assert survivors == sorted(set(survivors)) and set(survivors) <= set(largest)
    assert weights == [1.0] * len(survivors)
    free = whole & set(largest)
    assert free <= set(survivors)
    assert len(survivors) == min(max(k2, len(free)), len(largest))


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 3), st.integers(1, 40), SEEDS)
def test_singletons_are_replaced_by_a_draw_from_all(clusters: int, unassigned: int, k3: int, seed: int) -> None:
    n = clusters + unassigned
    clustering = Clustering([[trace] for trace in range(clusters)], list(range(clusters, n)), 0)
    for policy in ("largest", "representatives"):
        survivors, weights = choose_survivors(clustering, FinishRule(singletons=k3, policy=policy), NO_SCORES, seed)
        assert len(set(survivors)) == min(k3, n) == len(weights)
        assert set(survivors) <= set(range(n))


@settings(deadline=None)
@given(clusterings(), SEEDS)
def test_representatives_stand_for_all_members(clustering: Clustering, seed: int) -> None:
    if all(len(members) == 1 for members in clustering.clusters):
        return
    survivors, weights = choose_survivors(clustering, FinishRule(policy="representatives"), NO_SCORES, seed)
    assert dict(zip(survivors, weights, strict=True)) == {members[0]: len(members) for members in clustering.clusters}


@st.composite
def soft_cases(draw: st.DrawFn) -> tuple[Clustering, np.ndarray]:
    clustering = draw(clusterings())
    n = sum(map(len, clustering.clusters)) + len(clustering.unassigned)
    raw = np.random.default_rng(draw(st.integers(0, 1000))).random((n, n)) + 0.01
    return clustering, np.minimum((raw + raw.T) / 2, 1)


@settings(deadline=None)
@given(soft_cases(), st.integers(1, 12), st.sets(st.integers(0, 32)), SEEDS)
def test_soft_votes_are_given_away_whole(
    case: tuple[Clustering, np.ndarray], count: int, whole: set[int], seed: int
) -> None:
    clustering, scores = case
    rule = FinishRule(largest=count, policy="soft")
    known = PairScores.of_matrix(scores)
    survivors, weights = choose_survivors(clustering, rule, known, seed, whole)
    clustered = [trace for members in clustering.clusters for trace in members]
    assert survivors == sorted(set(survivors)) and set(survivors) <= set(clustered)
    assert sum(weights) == pytest.approx(len(scores)) and min(weights) >= 1
    assert len(set(survivors) - whole) <= count
    without_free = choose_survivors(clustering, rule, known, seed)[0]
    assert len(without_free) == min(count, len(clustered))


def test_soft_votes_follow_a_judge_that_is_sure() -> None:
    labels = np.array([0, 1, 0, 0, 1, 2])
    scores = (labels[:, None] == labels[None, :]).astype(float)
    clustering = Clustering([[0, 2, 3], [1, 4], [5]], [], 0)
    survivors, weights = choose_survivors(
        clustering, FinishRule(largest=3, policy="soft"), PairScores.of_matrix(scores), 0
    )
    assert sorted(labels[survivors]) == [0, 0, 1]
    mass = {label: sum(w for s, w in zip(survivors, weights, strict=True) if labels[s] == label) for label in (0, 1)}
    assert mass == {0: pytest.approx(3), 1: pytest.approx(2)}  # trace 5 resembles nobody and abstains


def test_the_earlier_of_equal_clusters_goes_on_and_whole_traces_represent_first() -> None:
    clustering = Clustering([[0, 2], [1, 3]], [], 0)
    assert choose_survivors(clustering, FinishRule(), NO_SCORES, 0)[0] == [0, 2]
    assert choose_survivors(clustering, FinishRule(policy="representatives"), NO_SCORES, 0, whole={3}) == (
        [0, 3],
        [2.0, 2.0],
    )


@settings(deadline=None)
@given(
    clusterings(),
    st.builds(
        FinishRule,
        largest=st.integers(1, 4),
        singletons=st.integers(1, 4),
        policy=st.sampled_from(["largest", "representatives", "soft"]),
    ),
    st.sets(st.integers(0, 32)),
    SEEDS,
)
def test_what_is_never_needed_is_not_missed(
    clustering: Clustering, rule: FinishRule, ended: set[int], seed: int
) -> None:
    """Pruning on arrival leaves enough of every cluster for as many survivors as without it."""
    n = sum(map(len, clustering.clusters)) + len(clustering.unassigned)
    scores = PairScores.of_matrix(np.full((n, n), 0.5))
    gone: set[int] = set()
    for trace in range(n):
        placed = Clustering(
            [
                [member for member in members if member <= trace]
                for members in clustering.clusters
                if members[0] <= trace
            ],
            [other for other in clustering.unassigned if other <= trace],
            0,
        )
        if trace not in ended and never_needed(trace, placed, rule, gone):
            gone.add(trace)
    ended = ended & set(range(n))
    survivors, weights = choose_survivors(clustering, rule, scores, seed, ended, gone)
    at_leisure, _ = choose_survivors(clustering, rule, scores, seed, ended)
    assert not gone & set(survivors)
    assert len(survivors) == len(weights) == len(at_leisure)


def test_the_draw_is_seeded_and_fair() -> None:
    clustering = Clustering([list(range(6))], [], 0)
    draws = [choose_survivors(clustering, FinishRule(largest=2), NO_SCORES, seed)[0] for seed in range(600)]
    assert draws == [choose_survivors(clustering, FinishRule(largest=2), NO_SCORES, seed)[0] for seed in range(600)]
    counts = [sum(trace in drawn for drawn in draws) for trace in range(6)]
    assert all(140 < count < 260 for count in counts)  # 200 expected, standard deviation 11.5


@pytest.mark.parametrize(
    ("values", "named"),
    [({"largest": 0}, "largest = 0"), ({"singletons": -1}, "singletons = -1"), ({"policy": "all"}, "policy = 'all'")],
)
def test_impossible_rules_are_refused(values: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        FinishRule(**values)
