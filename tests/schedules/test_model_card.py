"""The model card of a schedule that has ended, and its way to a server that poses as the Hub."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from schedules.card.measured import Models, read_combined, read_single
from schedules.config import RunConfig, read_run_config
from schedules.export import export_model
from schedules.launch import Launcher
from schedules.model_card import main, write_model_card
from schedules.records import VALIDATION, DataRecord, ValidationRecord, write_data, write_validation
from schedules.run import Driver
from secateur.engines.accounting import Usage
from secateur.results import Recommendation, Row, Table, write_table
from secateur.runtime.cards import code_span, describe_base, escape_markdown, fence, literal
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from secateur.runtime.hub import Pushed
from secateur.runtime.records import without_checksum, write_record
from secateur.tasks.prompts import FAMILIES, evaluation_messages
from tests.model_hub import TOKEN, USER, ModelHub
from tests.schedules.candidates import candidate

CPU = "configs/accelerate/cpu.yaml"
CONFIG = """
model: {model}
output_dir: {output}
limits: [220, 160]
steps_per_round: 8
problems: {problems}
problem_count: 10
prompt_family: plain
validation_problems: arithmetic:validation
validation_count: 4
validation_samples: 4
validation_temperature: 1.0
validation_top_p: 1.0
validation_max_tokens: 60
learning_rate: 3.0e-4
"""
HOSTILE = (
    "<script>alert(1)</script>[x](javascript:y)|![z](http://e.vil/p.png)\n# `a`` ```\u202e$$x$$ <img src=q onerror=r>"
)


def finished_run(folder: Path, model: Path, problems: str = "arithmetic:train", **prompt: str) -> RunConfig:
    """A run folder as a schedule of two rounds leaves it, with made-up figures."""
    output = folder / "run"
    write_text(folder / "run.yaml", CONFIG.format(model=model, output=output, problems=json.dumps(problems)))
    given = [part for key, value in prompt.items() for part in (f"--{key}", json.dumps(value))]
    argv = ["--config", str(folder / "run.yaml"), *given]
    config = read_run_config(argv)
    driver = Driver(config, argv, Launcher(CPU))
    driver.folder.open()
    write_data(output, DataRecord(12, 10, {"amc": "owner/set (main, train) at 83022cef"}))
    figures = [{0: (0.6, 200.0), 4: (0.7, 150.0), 8: (0.5, 100.0)}, {0: (0.7, 150.0), 4: (0.65, 120.0)}]
    for round_, models in zip(driver.folder.rounds, figures, strict=True):
        measured = tuple(candidate(step, *values, rates={"a": values[0]}) for step, values in models.items())
        write_validation(driver.folder.round_folder(round_) / VALIDATION, ValidationRecord({}, measured))
        driver._choose(round_, str(model))
    export_model(str(model), output / "final")
    driver._follow_up()
    return config


def test_the_card_says_what_was_done_chosen_and_measured(tmp_path, embedded_model, repository, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    config = finished_run(tmp_path, embedded_model)
    assert write_model_card(config) and not write_model_card(config)  # nothing changed
    final = tmp_path / "run" / "final"
    card = ModelCard.load(final / "README.md")
    assert card.validate is not None and card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers" and {"thinkprune", "trl"} <= set(card.data.tags)
    found = {(entry.metric_name, entry.metric_value) for entry in card.data.eval_results}
    assert found == {("pass@1", 0.65), ("mean tokens", 120.0)}
    for record in (read_json(path) for path in (tmp_path / "run").glob("rounds/*/selection.json")):
        assert escape_markdown(record["reason"]) in card.text
    assert "| step 8 | 0.500 | 0.400 – 0.600 | 100.0 | 90.0 – 110.0 | 0.0% | no |" in card.text
    assert "**this model**: round 2, limit 160: step 4 | 0.650" in card.text
    assert "0.1: a checkpoint passes with at least 0.9 of the reference's pass@1" in card.text
    assert (
        "were chosen on arithmetic:validation" in card.text and "A demonstration, not a language model" in card.text
    )
    assert "trl 1.16.0" in card.text and "hou2025thinkprune" in card.text
    assert (final / "rounds.png").is_file()


OWN = {
    "prompt_family": "qwen",
    "system_prompt": 'Say "so" \\ or\nnot.',
    "instruction": "So: {problem}\nIn \\boxed{}.",
}


@pytest.mark.parametrize("keys", [*({"prompt_family": family} for family in FAMILIES), OWN, {"instruction": "Now."}])
def test_the_snippets_put_a_problem_as_the_evaluation_does(keys: dict[str, str], tmp_path, embedded_model) -> None:
    config = finished_run(tmp_path, embedded_model, **keys)
    write_model_card(config)
    for snippet in snippets(tmp_path / "run" / "final"):
        names = {"problem": "What?"}
        exec(next(line.strip() for line in snippet.splitlines() if line.strip().startswith("messages = ")), names)
        assert names["messages"] == evaluation_messages("What?", config.schedule.prompt)


def test_the_transformers_snippet_runs(tmp_path, embedded_model, repository, monkeypatch, capsys) -> None:
    monkeypatch.chdir(repository)
    write_model_card(finished_run(tmp_path, embedded_model))
    transformers, vllm = snippets(tmp_path / "run" / "final")
    capsys.readouterr()
    exec(compile(transformers, "README.md", "exec"), {"__name__": "card"})
    assert capsys.readouterr().out.startswith("<think>")
    compile(vllm, "README.md", "exec")
    assert "max_model_len=828" in vllm and "max_tokens=60" in vllm


def snippets(final: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (final / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_foreign_text_stays_text(tmp_path, embedded_model, repository, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    config = finished_run(tmp_path, embedded_model, HOSTILE)
    selection = tmp_path / "run" / "rounds" / "1-limit-220" / "selection.json"
    write_json(selection, without_checksum(read_json(selection), "", "") | {"reason": HOSTILE})
    write_model_card(config)
    card = ModelCard.load(tmp_path / "run" / "final" / "README.md")
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "alert(1)" in shown
    assert not re.search(r"<script|<img src=.?q|javascript:y.?\"|e\.vil/p\.png\"|\u202e", shown)
    assert shown.count("<table>") == card.text.count("\n\n|"), "no row broke out of its table"


@pytest.mark.parametrize("value", [HOSTILE, "1. x", "- x", "# x", "```\nx", "a" * 5000, "", "&lt;b&gt;", "x@y.zz"])
def test_values_are_harmless_wherever_they_stand(value: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for text in (escape_markdown(value), code_span(value), fence(value), f"| {code_span(value)} | x |"):
        kinds = {token.type for token in parser.parse(f"{text}\n")}
        inline = {child.type for token in parser.parse(f"{text}\n") for child in token.children or ()}
        assert not kinds & {"heading_open", "bullet_list_open", "ordered_list_open", "html_block", "blockquote_open"}
        assert not inline & {"link_open", "image", "html_inline", "em_open", "strong_open"}
    assert json.loads(literal(value)) is not None and "`" not in literal(value)


@pytest.mark.parametrize(
    ("files", "licence", "source"),
    [
        (
            {"README.md": "---\nlicense: mit\nbase_model: Qwen/QwQ-32B\n---\n"},
            {"license": "mit"},
            "its own model card",
        ),
        ({"LICENSE": "  Apache License\n  Version 2.0"}, {"license": "apache-2.0"}, "its file LICENSE"),
        ({"config.json": '{"license": "gemma"}'}, {"license": "gemma"}, "its config.json"),
        (
            {"LICENSE.txt": "LLAMA COMMUNITY"},
            {"license": "other", "license_name": "see-file", "license_link": "LICENSE.txt"},
            "its licence file",
        ),
        ({"README.md": "---\n: : :\n---"}, {}, "neither its card nor its files name one"),
    ],
)
def test_the_licence_is_carried_over(files, licence, source, tmp_path) -> None:
    for name, text in ({"config.json": "{}"} | files).items():
        (tmp_path / name).write_text(text)
    base = describe_base(str(tmp_path))
    assert (base.licence, base.source) == (licence, source)
    assert base.hub_id == ("Qwen/QwQ-32B" if "base_model" in files.get("README.md", "") else None)
    assert [path.name for path in base.files] == [name for name in files if name.startswith("LICENSE")]


def test_a_folder_of_licences_is_no_licence_and_a_card_that_was_not_fetched_says_nothing(tmp_path) -> None:
    cached = tmp_path / "models--owner--name" / "snapshots" / "1"
    for folder in (tmp_path / "plain", cached):
        (folder / "LICENSES").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert describe_base(str(tmp_path / "plain")).source == "neither its card nor its files name one"
    base = describe_base(str(cached))
    assert base.hub_id == "owner/name" and base.files == () and "not in the Hub's cache" in base.source


def test_the_snippets_name_the_branch_that_the_model_was_pushed_to(tmp_path, embedded_model) -> None:
    config = finished_run(tmp_path, embedded_model)
    write_record(tmp_path / "run" / "hub.json", Pushed("user/x", "v1", content="", url="", commit=""), 1)
    write_model_card(config)
    transformers, vllm = snippets(tmp_path / "run" / "final")
    assert transformers.count('from_pretrained(name, revision="v1"') == 2
    assert 'LLM(model=name, revision="v1", ' in vllm
    text = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert "`vllm serve user/x --revision v1 --max-model-len " in text


def test_a_model_of_the_hub_that_cannot_be_reached_leaves_its_licence_open(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    base = describe_base("no-one/nothing")
    assert base.hub_id == "no-one/nothing" and base.licence == {} and "could not be read" in base.source


def test_what_was_measured_later_comes_into_the_card_and_stays(tmp_path, embedded_model, monkeypatch, capsys) -> None:
    config = finished_run(tmp_path, embedded_model)
    summary = tmp_path / "elsewhere" / "summary.json"
    write_json(summary, single_summary("there/final", str(embedded_model)))
    command = ["model_card", "--run", str(tmp_path / "run"), "--single", str(summary)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "name the final one of them with --model" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command, "--model", "ours"])
    main()
    assert "model card: " in capsys.readouterr().out
    summary.unlink()
    assert not write_model_card(config), "what was told is kept"
    card = ModelCard.load(tmp_path / "run" / "final" / "README.md")
    assert "| **this model** | aime | 3 × 4 | 0.500 | 0.400 – 0.600 | 900.0 |" in card.text
    assert ("aime", 0.5) in {(entry.dataset_name, entry.metric_value) for entry in card.data.eval_results}


def single_summary(final: str, original: str) -> dict[str, object]:
    figures = {"problems": 3, "samples": 4, "pass_at_1": 0.5, "pass_at_1_ci95": [0.4, 0.6], "mean_tokens": 900.0}
    figures |= {"mean_tokens_ci95": [800.0, 1000.0], "truncated_share": 0.1}
    config = {"models": {"base": original, "ours": final}, "problems": {"aime": "aime2024"}}
    config |= {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32000}
    return {"config": config, "models": {name: {"aime": figures} for name in ("base", "ours")}}


def test_a_combined_table_is_read_and_found_beside_the_run(tmp_path, embedded_model) -> None:
    config = finished_run(tmp_path, embedded_model)
    final = tmp_path / "run" / "final"
    write_table(tmp_path / "combined" / "x", table({"base": str(embedded_model), "ours": str(final), "other": "a/b"}))
    read = read_combined(tmp_path / "combined" / "x" / "combined.json", Models(final, str(embedded_model)))
    assert [(row.ours, row.method, row.tokens) for row in read.rows] == [
        (False, "single", 150.0), (True, "single", 150.0)
    ]  # fmt: skip
    write_model_card(config)
    text = (final / "README.md").read_text(encoding="utf-8")
    assert (
        "| **this model** | single | amc | 8 | 10 | 0.500 | 0.400 – 0.600 | 150.0 | 25.0% |" in text
        and "- take it" in text
    )
    assert "In what follows `base` is the original one, `ours` is this model." in text
    write_json(tmp_path / "odd.json", {"rows": []})
    with pytest.raises(InputError, match=r"odd\.json: has format None, this version reads 1; start eval/combined"):
        read_combined(tmp_path / "odd.json", Models(final, ""))
    with pytest.raises(InputError, match=r"odd\.json: is no summary\.json"):
        read_single(tmp_path / "odd.json", Models(final, ""))


def table(models: dict[str, str]) -> Table:
    """Two methods of each model, of which one is always shown and the other is recommended nowhere."""
    rows = [
        Row(
            id=f"{model}/{method}", model=model, method=method, judge=None, benchmark="amc", n=8, problems=10,
            accuracy=0.5, accuracy_ci95=(0.4, 0.6), oracle_accuracy=0.5, finished=8.0,
            tokens=Usage(generated=1000, judge_prefill=500), saving_gross=0.5, saving_net=0.25, net_tokens=150.0,
        )
        for model in models for method in ("single", "random_traces")
    ]  # fmt: skip
    advice = Recommendation("amc", 3.0, rows[0].id, {}, None, (), (), ("take it",))
    return Table(
        rows=tuple(rows), differences=(), recommendations=(advice,), live_equals_replay=None, live=(), wall_s={},
        parameters={}, n=(8,), folders={"amc": "."}, versions={},
        settings={"problems": "amc", "temperature": 1.0, "top_p": 1.0, "max_tokens": 500}, config={"models": models},
    )  # fmt: skip


def test_what_is_recommended_is_shown_with_its_judge_and_a_benchmark_that_was_chosen_on_says_so(
    tmp_path, embedded_model
) -> None:
    config = finished_run(tmp_path, embedded_model)
    known = table({"base": str(embedded_model), "ours": str(tmp_path / "run" / "final")})
    judged = replace(known.rows[-1], method="deepprune", judge="linear", id="best")
    advice = replace(known.recommendations[0], overall="best")
    settings = known.settings | {"problems": {"amc": "arithmetic:validation"}}
    written = replace(known, rows=(*known.rows, judged), recommendations=(advice,), settings=settings)
    write_table(tmp_path / "combined", written)
    write_model_card(config)
    text = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert "| **this model** | deepprune (linear) | amc (chosen on) | 8 |" in text
    assert "random\\_traces" not in text


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    with ModelHub(tmp_path / "hub") as running:
        yield running


def drive(hub: ModelHub, folder: Path, repository: Path, *arguments: str, token: str | None = TOKEN):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = [sys.executable, "schedules/run.py", "--config", str(folder / "run.yaml"), "--accelerate_config", CPU]
    command += ["--push_to_hub", "true", *arguments]
    environment = inherited | hub.environment(folder / "home", token)
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert TOKEN not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_final_model_goes_to_the_hub_and_a_failed_push_loses_nothing(hub, tmp_path, embedded_model, repository):
    finished_run(tmp_path, embedded_model)
    hub.failing.add("commit")
    failed = drive(hub, tmp_path, repository, "--hub_private_repo", "true")
    assert failed.returncode == 2 and f"was not pushed to {USER}/run" in failed.stderr, failed.stderr
    assert (tmp_path / "run" / "final" / "README.md").is_file()
    hub.failing.clear()
    pushed = drive(hub, tmp_path, repository, "--hub_private_repo", "true", "--hub_token", TOKEN, token=None)
    assert pushed.returncode == 0 and f"pushed to {hub.url}/{USER}/run" in pushed.stdout, pushed.stderr
    there = hub.folder(f"{USER}/run")
    for path in (tmp_path / "run" / "final").iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in there.iterdir()} >= {"model.safetensors", "README.md", "rounds.png", "config.json"}
    assert f'name = "{USER}/run"' in snippets(there)[0] and hub.repositories == {f"{USER}/run": True}
    assert ModelCard.load(there / "README.md").data.model_name == "run"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()], "the token is in no file"

    hub.asked.clear()
    again = drive(hub, tmp_path, repository)
    assert again.returncode == 0 and "is on the Hub" in again.stdout and set(hub.asked) <= {"whoami", "info", "tree"}


def test_a_missing_token_ends_the_run_before_work_begins(hub, tmp_path, embedded_model, repository) -> None:
    values = {"model": embedded_model, "output": tmp_path / "run", "problems": "arithmetic:train"}
    write_text(tmp_path / "run.yaml", CONFIG.format(**values))
    ended = drive(hub, tmp_path, repository, token=None)
    assert ended.returncode == 2 and "no token found; log in with `hf auth login`" in ended.stderr, ended.stderr
    assert not (tmp_path / "run").exists()


def test_the_token_is_kept_apart_from_what_is_written_down(tmp_path, embedded_model) -> None:
    values = {"model": embedded_model, "output": tmp_path / "run", "problems": "arithmetic:train"}
    write_text(tmp_path / "run.yaml", CONFIG.format(**values))
    argv = ["--config", str(tmp_path / "run.yaml")]
    config = read_run_config([*argv, "--hub_token", TOKEN])
    assert config.hub_token == TOKEN
    assert TOKEN not in f"{config!r}{config.resolved()}" and "hub_token" not in config.trainer
    with pytest.raises(InputError, match="key 'hub_token' is no text"):
        read_run_config([*argv, "--hub_token", "[1]"])
    with pytest.raises(InputError, match=r"'model_init_kwargs' holds a token.*hf auth login") as refusal:
        read_run_config([*argv, "--model_init_kwargs", f"{{token: {TOKEN}}}"])
    assert TOKEN not in str(refusal.value)
    with pytest.raises(InputError, match="key 'hub_model_id' has the value 'a/b/c'"):
        read_run_config([*argv, "--hub_model_id", "a/b/c"])


@pytest.mark.slow
def test_a_whole_schedule_ends_on_the_hub_and_its_token_nowhere_else(hub, tmp_path, embedded_model, repository):
    values = {"model": embedded_model, "output": tmp_path / "run", "problems": "arithmetic:train"}
    small = "limits: [140]\nsteps_per_round: 2\nsave_steps: 2\nvalidation_dtype: float32\n"
    small += (
        "num_generations: 4\nper_device_train_batch_size: 4\nuse_cpu: true\nbf16: false\nreport_to: tensorboard\n"
    )
    small += f"gradient_checkpointing: false\nmodel_init_kwargs: {{dtype: float32}}\nhub_token: {TOKEN}\n"
    text = re.sub(r"limits.*\nsteps.*\n", "", CONFIG.format(**values)) + small
    write_text(tmp_path / "run.yaml", text)
    done = drive(hub, tmp_path, repository, "--num_processes", "1", "--hub_model_id", "pruned", token=None)
    assert done.returncode == 0, done.stderr
    card = ModelCard.load(hub.folder(f"{USER}/pruned") / "README.md")
    assert card.data.license == "apache-2.0" and "limits of the rounds: 140 tokens" in card.text
    assert set(hub.repositories) == {f"{USER}/pruned"}, "no round has pushed anything"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
