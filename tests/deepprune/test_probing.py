"""Rules of forced answers: by hand, against what they must obey on any record, and live on scripted traces."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.probing import (
    Mars,
    ParallelProbe,
    ProbedTraces,
    ProbeRule,
    SwitchRates,
    learn_switch_rates,
    read_switch_rates,
    write_switch_rates,
)
from secateur.deepprune.replay import replay_probes
from secateur.engines.accounting import Usage
from secateur.runtime.errors import InputError

EVERY = 100


def record(*rows: tuple[str, int]) -> ProbedTraces:
    """Forced answers, mark by mark, and behind them the final one, with the length [tokens]; "-" is no answer. Each
    is read with 5 tokens."""
    keys = [[None if key == "-" else key for key in row] for row, _ in rows]
    forced = [row[:-1] for row in keys]
    read = [[5] * len(mine) for mine in forced]
    return ProbedTraces([row[-1] for row in keys], [length for _, length in rows], forced, EVERY, read)


def probe(**values: int) -> ParallelProbe:
    return ParallelProbe(every=EVERY, tokens=10, **values)


def test_parallel_probe_stops_when_the_majority_stays() -> None:
    """The first mark does not count; at the third and fourth a has stayed: two marks more. All stop five tokens
    behind the fourth, where the slowest answer has been read."""
    traces = record(("xaaaaaaa", 750), ("yaaaaaab", 720), ("zbbbbbbb", 710))
    found = replay_probes(traces, probe(stable=2, patience=9, warm_up=0), injected=3)
    assert found.key == "a" and found.kept_tokens == [405, 405, 405]
    probes = Usage(probe_prefill=3 * 12, probe_cached=3 * (100 + 200 + 300 + 400), probe_generated=5 * 12)
    assert found.usage == Usage(generated=3 * 405, longest_path=405) + probes


def test_parallel_probe_prunes_those_astray() -> None:
    """With a warm-up of one mark deviation is counted from the third mark on; after two of them the last one goes, at
    the fourth, and votes no more."""
    traces = record(("aaaaaa", 550), ("aaaaaa", 560), ("bbbbbb", 590))
    found = replay_probes(traces, probe(stable=40, patience=2, warm_up=1))
    assert found.kept_tokens == [550, 560, 405] and found.decision.survivors == [0, 1]


def test_traces_that_end_vote_with_their_own_answer() -> None:
    found = replay_probes(record(("a", 50), ("b", 60), ("cccca", 420)), probe())
    assert found.key == "a" and found.usage.generated == 530 and found.usage.longest_path == 420


def mars(**values: float) -> Mars:
    return Mars(every=EVERY, tokens=10, **values)


def test_mars_bound_by_hand() -> None:
    """3 running votes for a, 1 for b, each switching with .2, the worst case: against b the bar is .2 (2·3 − 1), and
    against one whom nobody named .2 (2·3 + 1). The lead is 2, and 3. With .4 the first bar is 2.0, which 2 does not
    pass."""
    votes, running = {"a": 3, "b": 1}, Counter(a=3, b=1)

    def safe(rate: float, rule: Mars) -> bool:
        return rule.is_safe(votes, running, {"a": 3 * rate, "b": rate})

    assert safe(0.2, mars()) and safe(0.39, mars()) and not safe(0.4, mars())
    assert safe(0.5, mars(gamma=0.5)), "half of those that switch land elsewhere: .5 (3 − 1)"
    assert not safe(0.2, mars(delta=0.05)), "and the slack √(½ · 13 · ln 40) is 4.9"
    assert not mars().is_safe({}, Counter({None: 4}), {None: 2.0}), "nobody has answered"


def test_ended_traces_are_settled() -> None:
    rates = SwitchRates(*((0.0,) * 4,) * 5)
    found = replay_probes(record(("a", 50), ("aaaa", 340), ("aaab", 330)), mars(rates=rates))
    assert found.key == "a" and found.kept_tokens == [50, 105, 105], "nobody switches: the first mark is enough"


def test_rates_are_counted_by_what_ended_traces_say(tmp_path: Path) -> None:
    """At mark 1 nobody has ended; one of two switches. At mark 2 one has ended, with a, and the other says b."""
    rates = learn_switch_rates([record(("aa", 150), ("abb", 250))])
    assert rates.early[0] == pytest.approx((1 + 1) / (2 + 2))
    assert rates.unsaid == pytest.approx((1 / 3, 0.5, 0.5, 0.5))
    write_switch_rates(tmp_path / "rates.json", rates)
    assert read_switch_rates(tmp_path / "rates.json") == rates


records = st.lists(st.text("ab-", min_size=1, max_size=8), min_size=2, max_size=6).map(
    lambda rows: record(*((row, EVERY * len(row) - 50) for row in rows))
)
RULES = st.sampled_from([probe(stable=2, patience=1, warm_up=0), probe(stable=1), mars(), mars(gamma=0.5)])


@given(records, RULES)
def test_on_any_record(traces: ProbedTraces, rule: ProbeRule) -> None:
    found = replay_probes(traces, rule)
    assert all(0 < kept <= length for kept, length in zip(found.kept_tokens, traces.lengths, strict=True))
    assert found.usage.generated == sum(found.kept_tokens)
    assert found.usage.longest_path == max(found.kept_tokens)
    assert found.usage.probe_generated <= 10 * sum(map(len, traces.forced))
    given_answers = {*traces.keys, *(key for mine in traces.forced for key in mine)}
    assert found.key is None or found.key in given_answers


@pytest.mark.parametrize(
    ("values", "named"),
    [({"tokens": 100}, "probe_tokens = 100"), ({"stable": 0}, "stable = 0"), ({"every": 0}, "probe_every = 0")],
)
def test_impossible_values_are_refused(values: dict[str, int], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ParallelProbe(**{"every": EVERY, "tokens": 10} | values)
