import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.clustering import (
    AskingClusters,
    Clustering,
    KnownClusters,
    LinkedClusters,
    cluster_asking,
    cluster_traces,
    priorities,
)
from secateur.deepprune.rule import ClusterRule
from secateur.runtime.errors import InputError

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
        priority = priorities(seed, np.array([trace]), np.arange(trace))[0]
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


@settings(deadline=None)
@given(exact_matrices(), RULES, SEEDS)
def test_agrees_with_the_rule_read_aloud(scores: np.ndarray, rule: ClusterRule, seed: int) -> None:
    assert cluster_traces(scores, rule, seed) == naive_clusters(scores, rule, seed)


@settings(deadline=None)
@given(score_matrices(), RULES, SEEDS)
def test_every_trace_has_one_place(scores: np.ndarray, rule: ClusterRule, seed: int) -> None:
    n = len(scores)
    clustering = cluster_traces(scores, rule, seed)
    places = [trace for members in clustering.clusters for trace in members] + clustering.unassigned
    assert sorted(places) == list(range(n))
    assert all(members == sorted(members) for members in clustering.clusters)
    assert len(clustering.clusters) <= rule.max_clusters
    assert not clustering.unassigned or (rule.overflow == "stop" and len(clustering.clusters) == rule.max_clusters)
    assert clustering.comparisons <= min(n * (n - 1) // 2, n * rule.max_clusters * rule.compared)
    labels = clustering.labels(n)
    assert all((labels[trace] is None) == (trace in clustering.unassigned) for trace in range(n))


class Witness:
    """A judge with a table, who notes what he is asked."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.pairs, self.calls = scores, [], 0

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.pairs.extend(map(tuple, pairs.tolist()))
        return self.scores[pairs[:, 0], pairs[:, 1]]


@settings(deadline=None)
@given(score_matrices(), RULES, SEEDS, st.integers(1, 30))
def test_asking_in_blocks_changes_nothing(scores: np.ndarray, rule: ClusterRule, seed: int, block: int) -> None:
    judge = Witness(scores)
    asked = cluster_asking(len(scores), judge, rule, seed, block)
    assert asked == cluster_traces(scores, rule, seed)
    assert len(judge.pairs) == len(set(judge.pairs)), "no pair is paid twice"
    assert all(earlier < later for later, earlier in judge.pairs)
    if block == 1:
        assert len(judge.pairs) <= asked.comparisons, "one by one, asking is never dearer than the rule"


@settings(deadline=None)
@given(score_matrices(), RULES, SEEDS, st.lists(st.integers(1, 6), min_size=24, max_size=24))
def test_it_does_not_matter_how_many_arrive_together(
    scores: np.ndarray, rule: ClusterRule, seed: int, counts: list[int]
) -> None:
    asking, known = AskingClusters(rule, seed, Witness(scores)), KnownClusters(scores, rule, seed)
    left = len(scores)
    for count in counts:
        asking.extend(min(count, left))
        known.extend(min(count, left))
        left -= min(count, left)
        placed = len(scores) - left
        if placed >= 2:
            assert asking.clustering == known.clustering == cluster_traces(scores[:placed, :placed], rule, seed)
        if not left:
            break


@pytest.mark.parametrize("overflow", ["stop", "join_best"])
def test_only_scores_that_could_matter_are_asked(overflow: str) -> None:
    """With a judge that is sure, nearly half of the pairs cannot change where a trace goes."""
    groups = [index % 8 for index in range(320)]
    scores = 0.02 + 0.96 * blocks(groups)
    rule = ClusterRule(max_clusters=9, overflow=overflow)
    judge = Witness(scores)
    clustering = cluster_asking(320, judge, rule, 0)
    assert clustering == cluster_traces(scores, rule, 0)
    assert len(judge.pairs) < 0.7 * clustering.comparisons + 16 * 320  # and those inside the blocks
    assert judge.calls <= 4 * 10  # blocks of 32


def test_pairs_grow_linearly_with_the_traces() -> None:
    """Scores by a rule instead of a table: what is asked grows with n times the clusters, not with n²."""
    groups = np.random.default_rng(0).integers(0, 40, 1500)
    asked = []

    def judge(pairs: np.ndarray) -> np.ndarray:
        asked.append(len(pairs))
        return np.where(groups[pairs[:, 0]] == groups[pairs[:, 1]], 0.9, 0.1)

    clustering = cluster_asking(1500, judge, ClusterRule(overflow="join_best", compared=3), 0)
    assert sum(map(len, clustering.clusters)) == 1500
    assert sum(asked) <= 1500 * (32 * 3 + 16)
    assert max(asked) <= 32 * (32 * 3 + 16)


@settings(deadline=None)
@given(SEEDS, st.integers(0, 10**6))
def test_priorities_are_a_function_of_seed_trace_and_member(seed: int, trace: int) -> None:
    table = priorities(seed, np.array([trace, trace + 1]), np.array([5, 0, 9]))
    assert table.shape == (2, 3)
    assert table[1, 2] == priorities(seed, np.array([trace + 1]), np.array([9]))[0, 0]
    assert len(set(table[0])) == 3


def test_draws_are_fair() -> None:
    drawn = np.argsort(priorities(3, np.arange(3000), np.arange(8)), axis=1)[:, :2]
    counts = np.bincount(drawn.reshape(-1), minlength=8)
    assert (np.abs(counts - 750) < 5 * np.sqrt(3000 * 0.25 * 0.75)).all()


@settings(deadline=None)
@given(score_matrices(), st.integers(2, 24), SEEDS)
def test_later_traces_do_not_touch_earlier_ones(scores: np.ndarray, n: int, seed: int) -> None:
    rule = ClusterRule(compared=2)
    n = min(n, len(scores))
    of_all, of_some = (cluster_traces(scores[:size, :size], rule, seed) for size in (len(scores), n))
    assert of_some.labels(n) == of_all.labels(len(scores))[:n]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=24), st.randoms(), SEEDS)
def test_order_does_not_matter_where_groups_are_far_apart(groups: list[int], random, seed: int) -> None:
    shuffled = list(groups)
    random.shuffle(shuffled)
    for order in (groups, shuffled):
        clustering = cluster_traces(blocks(order), ClusterRule(), seed)
        assert sorted(map(len, clustering.clusters)) == sorted(order.count(group) for group in set(order))
        assert all(len({order[trace] for trace in members}) == 1 for members in clustering.clusters)


def test_all_alike_and_all_different() -> None:
    assert cluster_traces(np.ones((5, 5)), ClusterRule(), 0).clusters == [[0, 1, 2, 3, 4]]
    assert cluster_traces(np.eye(5), ClusterRule(), 0).clusters == [[0], [1], [2], [3], [4]]


def test_tau_must_be_exceeded_and_ties_go_to_the_earlier_cluster() -> None:
    scores = np.array([[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]])
    assert cluster_traces(scores, ClusterRule(tau=0.5), 0).clusters == [[0], [1], [2]]
    assert cluster_traces(scores, ClusterRule(tau=0.4), 0).clusters == [[0, 2], [1]]


def test_what_follows_once_all_clusters_are_open() -> None:
    scores = blocks([0, 1, 2, 0])
    stopped = cluster_traces(scores, ClusterRule(max_clusters=2, overflow="stop"), 0)
    assert (stopped.clusters, stopped.unassigned) == ([[0], [1]], [2, 3])
    joined = cluster_traces(scores, ClusterRule(max_clusters=2, overflow="join_best"), 0)
    assert (joined.clusters, joined.unassigned) == ([[0, 2, 3], [1]], [])


def test_members_are_drawn_differently_by_seed() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((40, 40))
    rule = ClusterRule(tau=0.4, compared=2)
    assert len({str(cluster_traces(scores, rule, seed)) for seed in range(8)}) > 1


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
        cluster_traces(np.ones((n, n)), ClusterRule(), 0)
    with pytest.raises(InputError, match=f"n = {n}"):
        cluster_asking(n, Witness(np.ones((n, n))), ClusterRule(), 0)


def linked(scores: np.ndarray, tau: float) -> list[list[int]]:
    found = LinkedClusters(scores, ClusterRule(tau=tau, linkage="average"))
    found.extend(len(scores))
    return found.clustering.clusters


def test_average_linkage_by_hand() -> None:
    """0 and 2 are alike by .9 and merge first. 1 is like them by .8 and .4, .6 on average; 3 is like nobody."""
    scores = np.array([[1, 0.8, 0.9, 0], [0.8, 1, 0.4, 0], [0.9, 0.4, 1, 0], [0, 0, 0, 1]])
    assert linked(scores, 0.7) == [[0, 2], [1], [3]]
    assert linked(scores, 0.6) == [[0, 1, 2], [3]]
    assert linked(scores, 0.0) == [[0, 1, 2, 3]]
    assert linked(scores, 0.95) == [[0], [1], [2], [3]]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_linkage_finds_what_a_perfect_judge_tells_apart(groups: list[int]) -> None:
    assert linked(blocks(groups), 0.5) == cluster_traces(blocks(groups), ClusterRule(max_clusters=12), 0).clusters
