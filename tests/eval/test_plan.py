"""The plan of a sampling run against what really happens: bytes on disk, buffers of the engine, what is left."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.collect_traces import collect
from eval.dry_run.models import ModelPlan, added_disk, collect_models, combined_models
from eval.dry_run.runs import plan_collect, plan_combined
from eval.dry_run.traces import planned_sets
from eval.table.config import CombinedConfig
from eval.table.store import read_scores, traces_folder
from eval.table.work import work_on_model
from eval.traces.collect import CollectConfig
from secateur.deepprune.judges.folder import load_judge
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.memory import SamplingLoad, read_shape, transformers_items
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json
from tests.combined_runs import make_judge, make_reading_judge, settings, write_problems
from tests.real_models import write_config_folder

TOLERANCE = 0.1  # of states, vectors and confidences; lines of traces, which hold text, are within LINES
LINES = 0.3


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("plan") / "problems.jsonl", 3)


def config(model: Path, problems: Path, output: Path, **changes: Any) -> CollectConfig:
    values: dict[str, Any] = {
        "models": {"base": str(model)},
        "problems": {"train": str(problems)},
        "output_dir": str(output),
        "samples": 4,
        "cut_kind": "tokens",
        "cut_k": 20,
        "prompt_family": "plain",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 90,
        "top_logprobs": 3,
        "dtype": "float32",
        "device": "cpu",
        "rows": 12,
    }
    return CollectConfig(**values | changes)


def plan_of(chosen: CollectConfig) -> ModelPlan:
    sets = planned_sets(chosen.problems, chosen.problem_counts, chosen.seed)
    (plan,) = collect_models(chosen, sets)
    return plan


def test_a_collection_takes_the_disk_that_was_planned(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    """A fresh run whose mean lengths are known, and one that goes on: what is there tells the lengths."""
    collect(config(tiny_model, problems, tmp_path / "out"))
    first = plan_of(config(tiny_model, problems, tmp_path / "out", dry_run=True))
    assert first.traces_left == 0 and first.stored[0].traces == 12 and added_disk([first]).total == 0
    means = {"mean_tokens": first.lengths.tokens, "mean_cut_tokens": first.lengths.fed}
    fresh = added_disk([plan_of(config(tiny_model, problems, tmp_path / "none", dry_run=True, **means))])
    assert fresh.states + fresh.confidences == pytest.approx(first.stored[0].files, rel=TOLERANCE)
    assert fresh.lines == pytest.approx(first.stored[0].lines, rel=LINES)

    before = plan_of(config(tiny_model, problems, tmp_path / "out", samples=10, dry_run=True))
    assert before.traces_left == 18 and before.tokens_left == 18 * first.lengths.tokens
    collect(config(tiny_model, problems, tmp_path / "out", samples=10))
    after = plan_of(config(tiny_model, problems, tmp_path / "out", samples=10, dry_run=True))
    added = added_disk([before])
    grown = after.stored[0].files - before.stored[0].files
    assert added.states + added.confidences == pytest.approx(grown, rel=TOLERANCE)
    assert added.lines == pytest.approx(after.stored[0].lines - before.stored[0].lines, rel=LINES)


def test_a_combined_run_takes_the_disk_that_was_planned(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    judge = make_judge(tiny_model, tmp_path / "judge")
    values = settings(tiny_model, judge, problems, tmp_path / "out") | {"models": {"base": str(tiny_model)}}
    chosen = CombinedConfig(**values)
    sets = planned_sets(chosen.benchmarks, {}, chosen.seed)
    (fresh,) = combined_models(chosen, sets)
    assert fresh.traces_left == 24 and fresh.live_tokens > 0
    work_on_model(chosen, "base", chosen.load())
    (done,) = combined_models(chosen, sets)
    assert (done.traces_left, done.score_bytes, done.live_tokens) == (0, 0, 0)
    files = sum(path.stat().st_size for path in traces_folder(chosen, "base").glob("states/*"))
    assert added_disk([fresh]).vectors == pytest.approx(files, rel=TOLERANCE)
    scores = sum(path.stat().st_size for path in (tmp_path / "out").rglob("scores/**/*.npz"))
    assert scores <= fresh.score_bytes * 1.5  # few traces: the archive's own frame is half of it


def test_forced_answers_are_planned(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    """Every trace of 20 tokens has 3 marks, one at every 6 tokens, and an answer of 4 tokens at each: 12 tokens more
    of every stored trace, and of every trace of a live run that forces answers."""
    probes = {
        "probe_every": 6,
        "probe_tokens": 4,
        "probe_forcing": "plain",
        "methods": ["consensus", "parallel_probe"],
    }
    values = settings(
        tiny_model, tmp_path, problems, tmp_path / "out", judges={}, live=2, mean_tokens=20, dry_run=True
    )
    chosen = CombinedConfig(**values | {"models": {"base": str(tiny_model)}} | probes)
    (plan,) = combined_models(chosen, planned_sets(chosen.benchmarks, {}, chosen.seed))
    assert plan.probe_tokens == 3 * chosen.n * 12
    assert plan.live_tokens == 2 * chosen.n * (20 + 12)
    plain = CombinedConfig(**values | {"models": {"base": str(tiny_model)}, "methods": ["consensus", "ahead"]})
    (plan,) = combined_models(plain, planned_sets(plain.benchmarks, {}, plain.seed))
    assert (plan.probe_tokens, plan.live_tokens) == (0, 2 * chosen.n * 20)


@pytest.mark.parametrize("kind", ["linear", "pairwise"])
def test_a_judge_that_reads_is_weighed_and_its_reading_counted(kind, embedded_model, problems, tmp_path) -> None:
    judge = make_reading_judge(kind, embedded_model, tmp_path / "judge")
    changes = {"judges": {"base": str(judge)}, "live": 0, "max_tokens": 60, "n": 6}
    chosen = CombinedConfig(**settings(embedded_model, judge, problems, tmp_path / "out", **changes))
    work_on_model(chosen, "base", chosen.load())
    (plan,) = combined_models(chosen, planned_sets(chosen.benchmarks, {}, chosen.seed))
    planned = plan.judges[0]
    assert planned.parameters == load_judge(judge, embedded_model).parameters
    found = [read_scores(chosen, "base", planned.label, problem) for problem in plan.parts[0].problems]
    read = sum(scores.usage.everything.judge_prefill for scores in found)
    counted = len(found) * planned.read_tokens(chosen.n, plan.load.prompt, plan.lengths.fed)
    assert counted == pytest.approx(read, rel=TOLERANCE)


@pytest.mark.parametrize("tokens", [40, 150])
def test_the_engine_holds_the_buffers_that_were_planned(tiny_model: Path, tokens: int) -> None:
    """Keys, values and hidden states of all rows, every trace having reached the cap."""
    prompt, rows, layers = (5,) * 21, 3, [0, 2]
    engine = TransformersEngine(tiny_model, capture_layers=layers)
    engine.start(prompt, range(rows), SamplingSpec(1.0, 1.0, 0, tokens))
    engine.end_ids = frozenset()
    held: tuple[int, int] = (0, 0)
    while engine.step():
        if engine._batch.rows:
            cache = sum(slot.buffer.nbytes for slot in engine._batch._cache._slots)
            held = (cache, engine._batch._states.buffer.nbytes if engine._batch._states.buffer is not None else 0)
    load = SamplingLoad(read_shape(str(tiny_model)), rows, len(prompt), tokens, len(layers), tokens, 4)
    planned = {item.name: item.bytes for item in transformers_items(load)}
    assert held[0] == planned["keys and values of 3 traces"]
    assert held[1] == planned["hidden states of 2 layers up to the cut"]
    assert planned["weights"] == 4 * engine.parameters


def test_lengths_come_from_a_key_then_traces_then_a_measurement(tiny_model: Path, problems: Path, tmp_path) -> None:
    chosen = config(tiny_model, problems, tmp_path, dry_run=True)
    assert plan_of(chosen).lengths.tokens == 45, "half the cap"
    entry = {"samples": 2, "problems": 3, "generated_tokens": 120}
    write_json(tmp_path / "summary.json", {"models": {"base": {"one": entry, "two": entry}}})
    assert plan_of(chosen).lengths.tokens == 20
    assert "eval/single.py" in plan_of(chosen).lengths.tokens_from
    given = config(tiny_model, problems, tmp_path, dry_run=True, mean_tokens=70, cut_kind="words")
    assert (plan_of(given).lengths.tokens, plan_of(given).lengths.fed) == (70, 70), "a cut at words may be anywhere"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_tokens": 100}, "'mean_tokens' has the value 100: a dry run alone reads it"),
        ({"dry_run": True, "mean_tokens": -1}, "must be above 0"),
        ({"dry_run": True, "accelerate_config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"dry_run": True, "problem_counts": {"train": 99}}, "holds 3 problems, but 99 were asked for"),
        ({"dry_run": True, "models": {"base": "owner/name"}}, "'models.base' has the value 'owner/name'"),
    ],
)
def test_what_cannot_be_planned_is_named(
    tiny_model: Path, problems: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan_collect(config(tiny_model, problems, tmp_path, **changes))


def test_other_settings_are_refused_as_by_the_run(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    collect(config(tiny_model, problems, tmp_path, samples=1))
    with pytest.raises(InputError, match=r"'cut\.k' is 20 there and 21 now"):
        plan_collect(config(tiny_model, problems, tmp_path, samples=1, cut_k=21, dry_run=True))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"rows": 4}, "fits in 79.0 GiB"),
        ({"rows": 100}, "may not fit in 79.0 GiB"),
        ({"rows": 1000}, "does not fit in 79.0 GiB"),
        ({"engine": "vllm"}, "room for 12 of 12 traces at the cap"),
        ({"engine": "vllm", "gpu_memory_gib": 5.0}, "vLLM cannot start"),
        ({"engine": "vllm", "engine_options": {"gpu_memory_utilization": 0.99}}, "does not fit in 79.0 GiB"),
    ],
)
def test_memory_has_a_verdict(problems: Path, tmp_path: Path, capsys, changes: dict[str, Any], verdict: str) -> None:
    model = write_config_folder(tmp_path / "r1", "r1_distill_qwen_1.5b")
    wide = {"max_tokens": 32000, "dtype": "bfloat16", "device": "auto", "dry_run": True, "cut_k": 500}
    plan_collect(config(model, problems, tmp_path / "out", **wide | changes))
    assert verdict in capsys.readouterr().out


def test_a_dry_run_of_combined_counts_sets_out_of_reach_and_models_to_come(tmp_path: Path, capsys) -> None:
    model = write_config_folder(tmp_path / "r1", "r1_distill_qwen_1.5b")
    chosen = CombinedConfig(
        models={"base": str(model), "pruned": str(tmp_path / "to" / "come")},
        judges={"base": "random", "pruned": "random"},
        problems={"a": "aime24", "b": "aime22+aime23"},
        output_dir=str(tmp_path / "out"),
        engine="vllm",
        top_logprobs=20,
        dry_run=True,
        tokens_per_second=2500.0,
        accelerate_config="configs/accelerate/zero2.yaml",
    )
    plan_combined(chosen)
    shown = capsys.readouterr().out
    for part in ("30 × 64 = 1,920", "60 × 64 = 3,840", "aime22+aime23 is out of reach", "is not there yet", "8 GPUs"):
        assert part in shown, shown
    assert "92 M tokens ÷ (8 × 2,500 tokens/s) = 1.3 h, 10.2 h of GPUs" in shown, "5,760 traces of 16,000 tokens"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_prints_the_plan_and_leaves_nothing_behind(problems: Path, tmp_path: Path, repository) -> None:
    model = write_config_folder(tmp_path / "model", "r1_distill_qwen_1.5b")
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "eval/collect_traces.py", "--config", "configs/eval/collect_r1_distill_qwen_1.5b.yaml"]
    command += ["--models", f"{{base: {model}}}", "--problems", f"{{train: {problems}}}", "--dry_run", "true"]
    command += ["--problem_counts", "{}"]
    command += ["--accelerate_config", "configs/accelerate/zero2.yaml", "--output_dir", str(tmp_path / "out")]
    shown = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for part in ("1,777,088,000 parameters", "8 GPUs", "3 × 16 = 48", "hidden states", "fits in 79.0 GiB"):
        assert part in shown.stdout, shown.stdout
    assert "…" not in shown.stdout, "a number was cut off"
    assert sorted(tmp_path.rglob("*")) == before
