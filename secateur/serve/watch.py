"""What the service has done: counted for Prometheus, kept for the dashboard, logged as lines of JSON.

The tokens of answered requests are counted under the same names as in `usage`. What has been spent in all, also for
requests that were not answered (their callers left, or the engine broke down), is `secateur_spent_tokens`,
`secateur_spent_overrun_tokens` and `secateur_spent_judge_tokens`.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from secateur.deepprune.driver import Load, PruneProgress
from secateur.runtime.files import JSON
from secateur.serve.replies import Reply, Spent

LOG = logging.getLogger("secateur.serve")
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)  # seconds
_KEPT = 1000  # latencies of which percentiles are told
_SHOWN_LIVE, _SHOWN_RECENT, _SHOWN_TRACES = 24, 12, 64
_PERCENTILES = (50, 90, 99)
_GAUGES: Mapping[str, tuple[str, Callable[[Load], float]]] = {
    "rows": ("Traces that the engine holds", lambda load: load.rows),
    "max_rows": ("Traces that it may hold", lambda load: load.max_rows),
    "running": ("Requests whose traces run", lambda load: load.running),
    "waiting": ("Requests that wait for room", lambda load: load.waiting),
    "judge_failures": ("Requests whose judge failed, since the start", lambda load: load.judge_failures),
    "spent_tokens": ("Tokens that all requests that are over have generated", lambda load: load.spent.generated),
    "spent_overrun_tokens": ("Tokens of these that came after a stop", lambda load: load.spent.overrun),
    "spent_judge_tokens": (
        "Tokens that the judge has read or generated for them",
        lambda load: load.spent.judge_prefill + load.spent.judge_generated,
    ),
}


@dataclass(frozen=True)
class Live:
    """A request that is being answered; `since` is a time of the monotonic clock [seconds]."""

    id: str
    n: int
    rule: str
    since: float
    progress: PruneProgress | None = None

    def shown(self, now: float) -> dict[str, JSON]:
        """For the dashboard: no prompt, and of many traces the first."""
        told = {"id": self.id, "n": self.n, "rule": self.rule, "age_s": round(now - self.since, 1)}
        seen = self.progress
        if seen is None:
            return told | {"started": 0, "finished": 0, "stopped": 0, "tokens": 0, "votes": {}, "traces": []}
        counts = {name: getattr(seen, name) for name in ("started", "finished", "stopped", "tokens")}
        traces = [asdict(trace) for trace in seen.traces[:_SHOWN_TRACES]]
        return told | counts | {"votes": dict(seen.votes), "traces": traces}


@dataclass(frozen=True)
class Past:
    """A request that was answered; tokens as in `Consensus` and `Spent`."""

    id: str
    seconds: float
    answer: str | None
    votes: Mapping[str, int]
    tokens: int
    full_vote_tokens: int | None
    ended: str


@dataclass
class _Totals:
    """Since the start [tokens]; `spent` and `saved` are of answered requests whose full vote could be estimated."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    spent: int = 0
    full_vote: int = 0

    @property
    def saved(self) -> int:
        return self.full_vote - self.spent


@dataclass
class Watch:
    """One for each service. `load` tells how busy the engine is."""

    load: Callable[[], Load]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.live: dict[str, Live] = {}
        self.recent: deque[Past] = deque(maxlen=_SHOWN_RECENT)
        self.latencies: deque[float] = deque(maxlen=_KEPT)
        self.totals = _Totals()
        self._begun = time.monotonic()
        self._make_metrics()

    def _make_metrics(self) -> None:
        own = self.registry
        self._requests = Counter(
            "secateur_requests", "Requests by endpoint and HTTP status", ["endpoint", "status"], registry=own
        )
        self._seconds = Histogram(
            "secateur_request_seconds", "Seconds that answered requests took", buckets=_BUCKETS, registry=own
        )
        self._tokens = Counter("secateur_tokens", "Tokens by kind, as in usage", ["kind"], registry=own)
        self._traces = Counter("secateur_traces", "Traces by what became of them", ["status"], registry=own)
        self._full = Counter(
            "secateur_full_vote_tokens", "Tokens that the full votes would have generated (estimated)", registry=own
        )
        saved = Gauge("secateur_saved_tokens", "Tokens that the full votes would have cost more", registry=own)
        saved.set_function(lambda: self.totals.saved)
        for name, (words, read) in _GAUGES.items():
            gauge = Gauge(f"secateur_{name}", words, registry=own)
            gauge.set_function(lambda read=read: read(self.load()))

    @contextmanager
    def answering(self, name: str, n: int, rule: str) -> Iterator[Callable[[PruneProgress], None]]:
        """Show a request on the dashboard while it is answered; gives what takes its progress."""
        self.live[name] = Live(name, n, rule, time.monotonic())

        def note(progress: PruneProgress) -> None:
            if name in self.live:
                self.live[name] = replace(self.live[name], progress=progress)

        try:
            yield note
        finally:
            del self.live[name]

    def answered(self, name: str, reply: Reply, seconds: float) -> None:
        """Count an answer that is about to be sent."""
        spent, told = reply.spent, reply.consensus
        self._seconds.observe(seconds)
        self.latencies.append(seconds)
        self._count(spent)
        counts = {"finished": told.finished, "stopped": told.stopped, "unstarted": told.n - told.started}
        for status, count in counts.items():
            self._traces.labels(status).inc(count)
        cost = spent.generated + spent.overrun + spent.judge
        if told.full_vote_tokens is not None:
            self._full.inc(told.full_vote_tokens)
            self.totals.full_vote += told.full_vote_tokens
            self.totals.spent += cost
        self.totals.answered += 1
        self.recent.appendleft(
            Past(name, round(seconds, 3), told.answer, dict(told.votes), cost, told.full_vote_tokens, told.ended)
        )

    def _count(self, spent: Spent) -> None:
        for kind, count in asdict(spent).items():
            self._tokens.labels(kind).inc(count)

    def responded(self, endpoint: str, status: int) -> None:
        """Count a response by what it began with; the dashboard tells of those that were asked for an answer."""
        self._requests.labels(endpoint, str(status)).inc()
        if endpoint.endswith("completions"):
            self.totals.refused += 400 <= status < 500
            self.totals.failed += status >= 500

    def metrics(self) -> bytes:
        """Prometheus' text form."""
        return generate_latest(self.registry)

    def shown(self) -> dict[str, JSON]:
        """All that the dashboard draws."""
        now, load = time.monotonic(), self.load()
        first = list(self.live.values())[:_SHOWN_LIVE]
        return {
            "uptime_s": round(now - self._begun),
            "totals": {**asdict(self.totals), "saved": self.totals.saved},
            "latency_s": {f"p{percent}": percentile(self.latencies, percent) for percent in _PERCENTILES},
            "load": {name: getattr(load, name) for name in ("rows", "max_rows", "running", "waiting")},
            "live": [one.shown(now) for one in first],
            "more_live": len(self.live) - len(first),
            "recent": [asdict(one) for one in self.recent],
        }


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that so many of a hundred do not exceed; None of no values.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([], 50)
    (2.0, None)
    """
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


class JsonLines(logging.Formatter):
    """A record as one line: its time, level and message, and what was given as `extra={"told": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log(message: str, **told: JSON) -> None:
    """A line of the log."""
    LOG.info(message, extra={"told": told})
