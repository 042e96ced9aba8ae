"""The online controller on a real vLLM engine, with a judge that reads the hidden states it keeps."""

import pytest
import torch

from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule
from secateur.deepprune.job import ProblemJob
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.rule import ClusterRule, FinishRule, PruneRule
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.vllm.engine import VLLMEngine
from tests.engines.contract import LAYERS, QUESTIONS, encode

CUT = 30
N = 12


@pytest.fixture(scope="module")
def judge() -> OwnStatesJudge:
    """Untrained: its opinions are arbitrary but differ, so that traces are pruned."""
    torch.manual_seed(3)
    shape = OwnStatesShape(LAYERS, hidden=96, heads=4, width=24, pair_hidden=32)
    return OwnStatesJudge(OwnStatesModel(shape), shape, CutRule("tokens", CUT))


@pytest.mark.parametrize("mode", ["barrier", "overlap"])
def test_problems_run_live(
    vllm_engine: VLLMEngine, reference: TransformersEngine, judge: OwnStatesJudge, mode: str
) -> None:
    jobs = [ProblemJob.sampled(f"p{i}", encode(reference, text), N, 0) for i, text in enumerate(QUESTIONS)]
    rule = PruneRule(ClusterRule(tau=0.5), FinishRule(largest=3, singletons=3), mode)
    results = list(run_live(vllm_engine, jobs, SamplingSpec(max_tokens=200), judge, rule, max_rows=2 * N))
    assert sorted(result.problem_id for result in results) == ["p0", "p1", "p2"]
    for result in results:
        assert result.decision.judge_failure is None
        assert result.usage.generated == sum(len(trace.token_ids) for trace in result.traces)
        assert result.usage.overrun == 0 and result.usage.judge_head > 0
        for index, trace in enumerate(result.traces):
            assert trace.text == vllm_engine.tokenizer.decode(trace.token_ids, skip_special_tokens=True)
            assert (trace.finish_reason is None) == (trace.status == "pruned")
            assert trace.status == "whole" or trace.cut_tokens == CUT <= len(trace.token_ids)
            if trace.status == "pruned" and mode == "barrier":
                assert len(trace.token_ids) == CUT
            assert index not in result.decision.survivors or trace.finish_reason
    statuses = [trace.status for result in results for trace in result.traces]
    assert {"pruned", "finished"} <= set(statuses)
    assert vllm_engine.step() == []
