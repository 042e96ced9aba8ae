"""A judge behind the service: its rules may be asked for, its verdict is told, and answers are those of `prune`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from secateur import ADAPTIVE_RULE, PruneResult, SamplingSpec, TransformersEngine, load_judge, prune
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.folder import describe_generator, save_judge
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.record import Calibration, JudgeOrigin, store_measured
from tests.conftest import REPOSITORY
from tests.engines.contract import LAYERS
from tests.serve.running import KEYS, TEXTS, Server

MODEL = REPOSITORY / "trainers" / "embedded_model"
VERDICT = "a judged cut counts 0.50 of a vote"
SPEC = SamplingSpec(1.0, 1.0, 0, 300)
EXACT = (*KEYS, "--dtype", "float64", "--n", "10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained: its opinions are arbitrary but differ, so that traces are pruned."""
    torch.manual_seed(3)
    shape = OwnStatesShape(LAYERS, hidden=96, heads=4, width=24, pair_hidden=32)
    judge = OwnStatesJudge(OwnStatesModel(shape), shape, CutRule("tokens", 30))
    folder = tmp_path_factory.mktemp("judges") / "own-states"
    save_judge(judge, folder, JudgeOrigin(generator=describe_generator(MODEL), prompt_family="plain"))
    store_measured(folder, Calibration(), 0.5, VERDICT)
    return folder


@pytest.fixture(scope="module")
def judged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log.jsonl"
    with Server(log, "--judge", str(folder), keys=EXACT) as running:
        yield running


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(str(MODEL), dtype="float64", capture_layers=LAYERS)


def check(told: dict, expected: PruneResult) -> None:
    """`told` is the body of an answer."""
    asked = told["secateur"]
    assert (asked["answer"], asked["votes"]) == (expected.answer, dict(expected.votes))
    assert asked["judge"] == expected.judge == VERDICT
    assert asked["traces"]["stopped"] == expected.stopped and asked["traces"]["started"] == expected.started
    assert told["usage"]["completion_tokens"] == expected.usage.generated
    assert told["usage"]["judge_tokens"] == expected.usage.judge_prefill + expected.usage.judge_generated


@pytest.mark.parametrize(("rule", "known"), [("adaptive", ADAPTIVE_RULE), ("automatic", None)])
def test_a_judged_answer_is_that_of_prune(
    judged: Server, folder: Path, engine: TransformersEngine, rule: str, known: object
) -> None:
    """`automatic` is judged evidence where there is a judge with a weight."""
    judge, stopped = load_judge(folder, MODEL), 0
    for seed, text in enumerate(TEXTS):
        response = judged.chat(text, seed=seed, secateur={"rule": rule})
        assert response.status_code == 200 and str(folder) not in response.text
        expected = prune(text, engine, judge, n=10, spec=SPEC, rule=known, seed=seed)
        check(response.json(), expected)
        stopped += expected.stopped
    assert stopped > 0 and judged.metrics()["secateur_judge_failures"] == 0


def test_a_rule_that_asks_no_judge_may_be_asked_for_as_well(judged: Server) -> None:
    told = judged.chat(secateur={"rule": "fewest_tokens"}).json()
    assert told["secateur"]["rule"] == "fewest_tokens" and told["usage"]["judge_tokens"] == 0
