import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepprune.cluster import Clustering, ClusterRule, cluster_traces
from runtime.errors import InputError

RULES = st.builds(
    ClusterRule,
    tau=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
    max_clusters=st.integers(1, 12),
    compared=st.integers(1, 5),
    overflow=st.sampled_from(["stop", "join_best"]),
)
SEEDS = st.integers(0, 2**63)


@st.composite
def score_matrices(draw: st.DrawFn) -> np.ndarray:
    """Symmetric, with many equal values so that ties happen."""
    n = draw(st.integers(2, 24))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    raw = rng.integers(0, 11, (n, n)) / 10
    return np.triu(raw) + np.triu(raw, 1).T


def blocks(groups: list[int]) -> np.ndarray:
    """Scores of a judge that is always right: 1 within a group, 0 between groups."""
    labels = np.array(groups)
    return (labels[:, None] == labels[None, :]).astype(float)


def naive_clusters(scores: np.ndarray, rule: ClusterRule, seed: int) -> Clustering:
    """The rule read aloud, one pair at a time."""
    clusters, comparisons = [], 0
    for trace in range(len(scores)):
        if len(clusters) == rule.max_clusters and rule.overflow == "stop":
            return Clustering(clusters, list(range(trace, len(scores))), comparisons)
        priority = np.random.default_rng([seed, trace]).random(trace)
        best, best_similarity = None, -1.0
        for cluster in clusters:
            asked = cluster
            if len(cluster) > rule.compared:
                asked = sorted(cluster, key=lambda member: priority[member])[: rule.compared]
            similarity = 0.0
            for member in asked:
                similarity += scores[trace, member]
                comparisons += 1
            if similarity / len(asked) > best_similarity + 1e-12:
                best, best_similarity = cluster, similarity / len(asked)
        if best is not None and (best_similarity > rule.tau + 1e-12 or len(clusters) == rule.max_clusters):
            best.append(trace)
        else:
            clusters.append([trace])
    return Clustering(clusters, [], comparisons)


@st.composite
def exact_matrices(draw: st.DrawFn) -> np.ndarray:
    """Multiples of 1/64, whose sums are exact: means tie with each other or tau only where they truly do."""
    return np.floor(draw(score_matrices()) * 64) / 64


@given(exact_matrices(), RULES, SEEDS)
def test_agrees_with_the_rule_read_aloud(scores: np.ndarray, rule: ClusterRule, seed: int) -> None:
    assert cluster_traces(len(scores), scores, rule, seed) == naive_clusters(scores, rule, seed)


@given(score_matrices(), RULES, SEEDS)
def test_every_trace_has_one_place(scores: np.ndarray, rule: ClusterRule, seed: int) -> None:
    n = len(scores)
    clustering = cluster_traces(n, scores, rule, seed)
    places = [trace for members in clustering.clusters for trace in members] + clustering.unassigned
    assert sorted(places) == list(range(n))
    assert all(members == sorted(members) for members in clustering.clusters)
    assert len(clustering.clusters) <= rule.max_clusters
    assert not clustering.unassigned or (rule.overflow == "stop" and len(clustering.clusters) == rule.max_clusters)
    assert clustering.comparisons <= min(n * (n - 1) // 2, n * rule.max_clusters * rule.compared)
    labels = clustering.labels(n)
    assert all((labels[trace] is None) == (trace in clustering.unassigned) for trace in range(n))


@given(score_matrices(), RULES, SEEDS)
def test_scoring_pairs_when_asked_changes_nothing(scores: np.ndarray, rule: ClusterRule, seed: int) -> None:
    asked = []

    def judge(trace: int, members: list[int]) -> list[float]:
        asked.extend((trace, member) for member in members)
        return [scores[trace, member] for member in members]

    lazily = cluster_traces(len(scores), judge, rule, seed)
    assert lazily == cluster_traces(len(scores), scores, rule, seed)
    assert len(asked) == len(set(asked)) == lazily.comparisons
    assert all(member < trace for trace, member in asked)


@given(score_matrices(), st.integers(2, 24), SEEDS)
def test_later_traces_do_not_touch_earlier_ones(scores: np.ndarray, n: int, seed: int) -> None:
    rule = ClusterRule(compared=2)
    n = min(n, len(scores))
    of_all, of_some = (cluster_traces(size, scores, rule, seed) for size in (len(scores), n))
    assert of_some.labels(n) == of_all.labels(len(scores))[:n]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=24), st.randoms(), SEEDS)
def test_order_does_not_matter_where_groups_are_far_apart(groups: list[int], random, seed: int) -> None:
    shuffled = list(groups)
    random.shuffle(shuffled)
    for order in (groups, shuffled):
        clustering = cluster_traces(len(order), blocks(order), ClusterRule(), seed)
        assert sorted(map(len, clustering.clusters)) == sorted(order.count(group) for group in set(order))
        assert all(len({order[trace] for trace in members}) == 1 for members in clustering.clusters)


def test_all_alike_and_all_different() -> None:
    assert cluster_traces(5, np.ones((5, 5)), ClusterRule(), 0).clusters == [[0, 1, 2, 3, 4]]
    assert cluster_traces(5, np.eye(5), ClusterRule(), 0).clusters == [[0], [1], [2], [3], [4]]


def test_tau_must_be_exceeded_and_ties_go_to_the_earlier_cluster() -> None:
    scores = np.array([[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]])
    assert cluster_traces(3, scores, ClusterRule(tau=0.5), 0).clusters == [[0], [1], [2]]
    assert cluster_traces(3, scores, ClusterRule(tau=0.4), 0).clusters == [[0, 2], [1]]


def test_what_follows_once_all_clusters_are_open() -> None:
    scores = blocks([0, 1, 2, 0])
    stopped = cluster_traces(4, scores, ClusterRule(max_clusters=2, overflow="stop"), 0)
    assert (stopped.clusters, stopped.unassigned) == ([[0], [1]], [2, 3])
    joined = cluster_traces(4, scores, ClusterRule(max_clusters=2, overflow="join_best"), 0)
    assert (joined.clusters, joined.unassigned) == ([[0, 2, 3], [1]], [])


def test_members_are_drawn_differently_by_seed() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((40, 40))
    rule = ClusterRule(tau=0.4, compared=2)
    assert len({str(cluster_traces(40, scores, rule, seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"tau": 1.2}, "tau = 1.2"),
        ({"tau": float("nan")}, "tau = nan"),
        ({"max_clusters": 0}, "max_clusters = 0"),
        ({"compared": 0}, "compared = 0"),
        ({"overflow": "go"}, "overflow = 'go'"),
    ],
)
def test_impossible_rules_are_refused(values: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        ClusterRule(**values)


@pytest.mark.parametrize("n", [0, 1])
def test_one_trace_cannot_be_clustered(n: int) -> None:
    with pytest.raises(InputError, match=f"n = {n}"):
        cluster_traces(n, np.ones((n, n)), ClusterRule(), 0)
