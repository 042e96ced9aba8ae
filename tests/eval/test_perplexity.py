"""Perplexity of stored traces: against the model's own logits, whatever the batches and chunks."""

import sys
from pathlib import Path

import pytest
import torch

import eval.studies.perplexity as scores_module
from eval.perplexity import main
from eval.studies.perplexity import ScoredTrace, batches, check_head, read_perplexity, score_batch, summarise
from eval.traces.sampling import prompt_ids
from secateur.engines.base import SamplingSpec, trace_seed
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.model_files import load_tokenizer
from secateur.engines.models import load_model
from secateur.engines.sampling import TraceJob, sample_traces
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_jsonl
from secateur.tasks.arithmetic import make_problems
from secateur.tasks.prompts import Prompt
from secateur.tasks.records import Trace

CPU = torch.device("cpu")
TRACES = [ScoredTrace(("m", "b", str(n), 0), tuple(range(9, 12 + n)), tuple(range(20, 27 + 5 * n))) for n in range(4)]


def brute_force(model: torch.nn.Module, trace: ScoredTrace) -> float:
    ids = torch.tensor([trace.prompt_ids + trace.completion_ids])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(trace.prompt_ids), len(trace))
    return -sum(logs[place - 1, ids[0, place]].item() for place in places)


@pytest.mark.parametrize("bytes_at_once", [1, 5000, 1 << 28])  # one position at a time, a few, all
def test_sums_are_those_of_the_models_own_logits(tiny_model, monkeypatch, bytes_at_once: int) -> None:
    monkeypatch.setattr(scores_module, "_LOGIT_BYTES", bytes_at_once)
    model = load_model(tiny_model, "float32", CPU)
    assert score_batch(model, TRACES) == pytest.approx([brute_force(model, trace) for trace in TRACES], rel=1e-4)


def test_batches_hold_every_trace_once_within_their_size() -> None:
    found = list(batches(TRACES, 60))
    assert sorted(trace.key for batch in found for trace in batch) == sorted(trace.key for trace in TRACES)
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= 60 for batch in found)
    assert [len(batch) for batch in batches(TRACES, 1)] == [1] * 4


def test_a_head_that_is_more_than_a_product_is_refused(tiny_model) -> None:
    model = load_model(tiny_model, "float32", CPU)
    check_head(model, TRACES[0])
    plain = model.forward

    def scaled(**arguments):
        output = plain(**arguments)
        output.logits = 5 + output.logits
        return output

    model.forward = scaled
    with pytest.raises(InputError, match="scaled or capped"):
        check_head(model, TRACES[0])


def test_a_model_without_numbers_is_called_that(tiny_model) -> None:
    model = load_model(tiny_model, "float32", CPU)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(InputError, match="logits are not finite"):
        check_head(model, TRACES[0])


def test_summaries_weigh_tokens_or_traces() -> None:
    found = summarise([[(10, 20.0), (30, 15.0)], [(10, 5.0)]])
    assert found.token_nll == pytest.approx(40 / 50)
    assert found.trace_nll == pytest.approx(((2.0 + 0.5) / 2 + 0.5) / 2)
    assert found.token_perplexity == pytest.approx(2.718281828 ** (40 / 50))
    assert summarise([]) is None


def sample(model: Path, folder: Path, temperature: float = 1.0) -> None:
    tokenizer, engine = load_tokenizer(model), TransformersEngine(model)
    problems = make_problems("test", 8, seed=3)
    jobs = [TraceJob(p, 0, prompt_ids(tokenizer, p, Prompt("plain")), trace_seed(0, p.id, 0)) for p in problems]
    with TraceFolderWriter(folder, {}) as writer:
        for done in sample_traces(engine, None, jobs, SamplingSpec(temperature=temperature, max_tokens=60)):
            p = done.job.problem
            trace = Trace(p.id, p.problem, p.answer, 0, done.text, "m", done.token_ids, done.n_tokens, "stop")
            writer.add(trace)


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["perplexity.py", "--prompt_family", "plain", "--dtype", "float32", *arguments])
    main()


def test_likelier_traces_have_lower_perplexity_and_a_run_goes_on(monkeypatch, tmp_path, embedded_model) -> None:
    """Greedy traces are likelier than sampled ones, and those likelier than hot ones."""
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0), ("hot", 3.0)):
        sample(embedded_model, tmp_path / name, temperature)
    traces = "{" + ", ".join(f"{name}: {tmp_path}/{name}" for name in ("greedy", "sampled", "hot")) + "}"
    arguments = ["--traces", traces, "--model", str(embedded_model), "--output_dir", str(tmp_path / "out")]
    run(monkeypatch, *arguments)
    report = read_perplexity(tmp_path / "out")
    values = [report.models[name].all.token_perplexity for name in ("greedy", "sampled", "hot")]
    assert 1 < values[0] < values[1] < values[2]
    lines = (tmp_path / "out/nll.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out/nll.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:9])  # as a kill leaves it
    run(monkeypatch, *arguments, "--batch_tokens", "64")
    stored = [(line["model"], line["problem_id"]) for _, line in read_jsonl(tmp_path / "out/nll.jsonl")]
    assert len(stored) == len(set(stored)) == 24
    again = read_perplexity(tmp_path / "out").models["hot"].all.token_perplexity
    assert again == pytest.approx(values[2], rel=1e-5)


def test_ids_of_another_tokenizer_are_refused(monkeypatch, tmp_path, embedded_model, tiny_model, capsys) -> None:
    with TraceFolderWriter(tmp_path / "t", {}) as writer:
        writer.add(Trace("p", "question", "1", 0, "Okay, rule", token_ids=(70, 71, 72), n_tokens=3))
    keys = ["--traces", f"{{x: {tmp_path}/t}}", "--output_dir", str(tmp_path / "out"), "--model"]
    with pytest.raises(SystemExit):
        run(monkeypatch, *keys, str(tiny_model))
    assert "same vocabulary" in capsys.readouterr().err
    sample(tiny_model, tmp_path / "tiny")
    keys[1] = f"{{x: {tmp_path}/tiny}}"
    run(monkeypatch, *keys, str(tiny_model))  # corrected: nothing had been scored that would bind the folder
    with pytest.raises(SystemExit):
        run(monkeypatch, *keys, str(embedded_model))
    assert "key 'model' is" in capsys.readouterr().err
