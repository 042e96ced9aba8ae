"""`secateur`: help and mistakes are answered at once, what it starts is the script, and nothing secret is printed."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.command_lines import CASES, Case, judged
from schedules.config import read_run_config
from secateur import cli, doctor
from secateur.runtime.commands import HELP_FILE, read_help
from secateur.runtime.errors import InputError
from tools import command_help
from tools.config_keys import find_commands

WITHOUT_TORCH = """
import sys
from secateur.cli import main
sys.argv = ["secateur", *sys.argv[1:]]
try:
    main()
finally:
    assert not {"torch", "transformers", "pydantic", "numpy"} & sys.modules.keys() - set(ALLOWED), "heavy imports"
"""


Ended = subprocess.CompletedProcess[str]


def secateur(repository: Path, *words: str, allowed: str = "()") -> Ended:
    command = [sys.executable, "-c", WITHOUT_TORCH.replace("ALLOWED", allowed), *words]
    return subprocess.run(
        command, cwd=repository, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )


def test_the_help_is_current() -> None:
    current = HELP_FILE.read_text(encoding="utf-8") == command_help.text()
    assert current, "commands.json is not what the source says: run `python -m tools.command_help`"


def test_it_names_every_command_and_says_where_to_begin(repository: Path) -> None:
    for words in ((), ("--help",)):
        said = secateur(repository, *words)
        assert said.returncode == 0, said.stderr
        assert all(f"    {name}" in said.stdout for name in (*cli.COMMANDS, "plan", "completion"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_explains_all_keys_without_loading_what_it_speaks_of(name: str, repository: Path) -> None:
    said = secateur(repository, name, "--help")
    assert said.returncode == 0, said.stderr
    config = next((one.config for one in find_commands() if one.path == cli.COMMANDS[name]), None)
    for field in dataclasses.fields(config) if config else ():
        assert not field.init or f"--{field.name}" in said.stdout, field.name


@pytest.mark.parametrize(
    "words", [("secateur/cli.py", "train", "--config", "x.yaml"), ("trainers/grpo_len.py", "--config", "x.yaml")]
)
def test_help_may_come_behind_other_words(words: tuple[str, ...], repository: Path) -> None:
    said = subprocess.run([sys.executable, *words, "--help"], cwd=repository, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "") and "--steps_per_round" in said.stdout


@pytest.mark.parametrize("script", [one.path for one in find_commands()])
def test_scripts_answer_help_and_mistyped_keys_before_they_load_anything(script: str, repository: Path) -> None:
    """`-X importtime` tells what was loaded."""
    start, env = [sys.executable, "-X", "importtime", script], os.environ | {"COLUMNS": "100"}
    helped, mistyped = (
        subprocess.run([*start, *words], cwd=repository, capture_output=True, text=True, env=env)
        for words in (["--help"], ["--no_such_key", "1"])
    )
    assert helped.returncode == 0 and helped.stdout.startswith(f"usage: python {script} ")
    assert f"The same as python {script}." not in helped.stdout
    told = next(line for line in mistyped.stderr.splitlines() if not line.startswith("import time:"))
    assert mistyped.returncode == 2 and told.startswith("error: command line: unknown key 'no_such_key'; ")
    for ended in (helped, mistyped):
        loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
        assert "argparse" in loaded and not loaded & {"torch", "transformers", "numpy", "scipy", "matplotlib"}


def test_a_script_beside_a_package_that_is_installed_elsewhere_answers_too(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "eval" / "prune.py"
    script.parent.mkdir()
    script.write_bytes((repository / "eval" / "prune.py").read_bytes())
    env = os.environ | {"PYTHONPATH": str(repository)}
    said = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert (said.returncode, said.stderr) == (0, "") and said.stdout.startswith("usage: python eval/prune.py ")


def test_a_launcher_of_several_processes_shows_the_help_once(repository: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    launch += ["--num_processes", "2", "trainers/grpo_len.py", "--help"]
    said = subprocess.run(launch, cwd=repository, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.count("usage: python trainers/grpo_len.py") == 1, said.stderr


def test_keys_that_cannot_be_set_say_why_from_the_file_too(repository: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: trainers/embedded_model\nmax_steps: 5\n")
    start = [sys.executable, "trainers/grpo_len.py", "--config", str(config)]
    ours = subprocess.run(start, cwd=repository, capture_output=True, text=True)
    assert ours.stderr == f"error: {config}: key 'max_steps' cannot be set: set 'steps_per_round'\n"
    config.write_text("model: trainers/embedded_model\nlearning_rat: 5\n")
    theirs = subprocess.run(start, cwd=repository, capture_output=True, text=True)
    assert theirs.stderr == f"error: {config}: unknown key 'learning_rat'; did you mean 'learning_rate'?\n"


def test_examples_in_the_help_come_from_our_configs() -> None:
    keys = [key for told in read_help().values() for group in told.groups for key in group.keys]
    assert sum(bool(key.example) for key in keys) > 80
    assert all(key.example.partition(":")[0] in {name[2:] for name in key.names} for key in keys if key.example)


MISTAKES = {
    (
        "judge",
        "--lerning_rate",
        "1",
    ): "error: command line: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
    ("prune", "--modle=x"): "error: command line: unknown key 'modle'; did you mean 'model'?",
    ("trian",): "error: command line: no command 'trian'; did you mean 'train'?",
    ("trian", "--help"): "error: command line: no command 'trian'; did you mean 'train'?",
    ("completion",): "error: command line: the following arguments are required: shell; --help explains them all",
    (
        "train",
        "--max_completion_length",
        "9",
    ): "error: command line: key 'max_completion_length' cannot be set: the limit of the round is the cap",
    ("plan", "ls"): "error: command line: 'plan' wants the command that is to be planned: train, traces,",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_before_anything_is_loaded(words: tuple[str, ...], repository: Path) -> None:
    said = secateur(repository, *words, allowed="('pydantic', 'numpy')")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.count("\n") == 1 and said.stderr.startswith(MISTAKES[words])


MODEL, CPU = ("--model", "trainers/embedded_model"), ("--accelerate_config", "configs/accelerate/cpu.yaml")
SINGLE = ("single", "--config", "configs/demo/single.yaml", "--models", "{base: trainers/embedded_model}")
ASKED = ("prune", *MODEL, "--problem", "x")
TABLE = ("table", "--config", "configs/demo/combined.yaml", "--models", "{base: trainers/embedded_model}")
TRACES = ("traces", "--config", "configs/demo/collect_judge_traces.yaml", *SINGLE[3:])
JUDGE = ("judge", "--config", "configs/demo/judge_own_states.yaml", *MODEL)
TUNE, SCORER = ("tune", *MODEL, "--output_dir", "x"), ("scorer", "--config", "configs/demo/scorer.yaml")
SERVE = ("serve", *MODEL)
TRAIN = ("train", "--config", "configs/demo/thinkprune.yaml", *CPU)
WITHOUT_VLLM = {
    (*SINGLE, "--engine", "vllm"): "engine 'vllm': vllm is not installed; on a GPU machine `pip install -e"
}
if importlib.util.find_spec("vllm") is not None:
    WITHOUT_VLLM = {}
VALUES = {
    (*SINGLE, "--temperature", "-1"): "key 'temperature' has the value -1.0: expected 0 (greedy) or more",
    (*SINGLE, "--samples", "0"): "key 'samples' has the value 0",
    (*SINGLE, "--problem_count", "many"): "key 'problem_count' has the value 'many': expected int",
    (*SINGLE[:3], "--models", "{base: /nope}"): "key 'models.base' has the value '/nope': no such folder",
    (*SINGLE, "--engine", "vlm"): "key 'engine' has the value 'vlm': expected one of transformers, vllm, openai",
    (*SINGLE, "--engine", "openai"): "key 'engine_options' lacks 'base_url', the server's address",
    (*SINGLE, "--dtype", "fp16"): "key 'dtype' has the value 'fp16': expected one of float32",
    ("single", "--config", "nothere.yaml"): "nothere.yaml: no such config file",
    ("single", "--config"): "--config has no value; write --config value",
    ("single", "config.yaml"): "unexpected 'config.yaml'; write --key value",
    ("prune", *MODEL): "give either 'problem', a text, or 'problems', a file of them",
    ("prune", *MODEL, "--problems", "q.jsonl"): "key 'output_dir' is required with 'problems'",
    (*ASKED, "y"): "key 'problem' has the value ['x', 'y']: expected str | None (one value: on the command line in",
    (*ASKED, "--device", "gpu"): "key 'device' has the value 'gpu'; give auto, cpu, cuda or cuda:N",
    (
        "prune",
        "--model",
        "README.md",
        "--problem",
        "x",
    ): "'README.md', which is a file: give a model folder or a",
    (
        "prune",
        *MODEL,
        "--problems",
        "docs",
        "--output_dir",
        "x",
    ): "docs: a folder and no known set; give a JSONL",
    ("prune", "--model", "/nope", "--problem", "x"): "key 'model' has the value '/nope': no such folder",
    (*ASKED, "--rule", "published"): "key 'rule' has the value 'published', which asks a judge; give 'judge' as well",
    (*ASKED, "--rule", "fastest"): "key 'rule' has the value 'fastest': choose one of automatic, fewest_tokens,",
    (*ASKED, "--answer_from", "lastline"): "key 'answer_from' has the value 'lastline'; give answer, anywhere,",
    (*ASKED, "--prompt_family", "gwen"): "key 'prompt_family' has the value 'gwen'; choose one of deepseek, qwen,",
    (*ASKED, "--top_p", "95"): "key 'top_p' has the value 95.0: expected a share above 0, at most 1 (off)",
    (*ASKED, "--n", "eight"): "key 'n' has the value 'eight': expected int",
    (*TABLE, "--methods", "[aheed]"): "key 'methods' names 'aheed'; choose from single, consensus,",
    (*TABLE, "--judges", "{bass: [random]}"): "key 'judges' names the model 'bass', which key 'models' does not have",
    (*TABLE, "--judges", "{base: [/nope]}"): "key 'judges.base' has the value '/nope': no judge.json there",
    (*TABLE[:3], "--models", "[a, b]"): "key 'models' has the value ['a', 'b']: expected dict[str, str]",
    (*TRACES, "--cut_kind", "word"): "'word'",
    (*JUDGE, "--kind", "linaer"): "key 'kind' has the value 'linaer': choose one of linear_own_states, linear,",
    (*JUDGE, "--heads", "0"): "key 'heads' has the value 0; it must be at least 1",
    (*TUNE, "--optim", "adamw"): "key 'optim' has the value 'adamw': choose one of adafactor, adamw_torch,",
    (*TUNE, "--count", "0"): "key 'count' has the value 0; give at least 1",
    (*TUNE, "--solutions", "README.md"): "README.md, line 1: not JSON",
    (*TUNE, "--solutions", "no.jsonl"): "key 'solutions' has the value 'no.jsonl': no such file; give one, or words",
    (*SCORER, "--heads", "0"): "key 'heads' has the value 0; it must be at least 1",
    (*SCORER, "--reads", "[state]"): "key 'reads' has the value ['state']: expected list[",
    (*SCORER, "--points", "middle"): "'middle'",
    (*SCORER, "--cut_k", "9"): "give both 'cut_kind' and 'cut_k', or neither",
    (*SINGLE, "--problems", "aime99"): "aime99: no such file and no known set; give a JSONL file",
    (*SINGLE, "--problems", "arithmetic:tst"): "unknown split 'tst'; valid splits: train, validation,",
    (
        "single",
        *SINGLE[3:],
        "--output_dir",
        "x",
        "--problems",
        "words:test",
    ): "endless: say by key 'problem_count' how many",
    (*TABLE, "--judges", "{base: [random]}", "--problems", "aime99"): "aime99: no such file and no known set",
    (*TRACES, "--problems", "{a: no.jsonl}", "--problem_counts", "{}"): "no.jsonl: no such file and no known set",
    (*JUDGE, "--train", "/nope"): "/nope: no such folder of traces; make it with eval/collect_traces.py",
    (*JUDGE, "--train", "tests"): "tests: no traces there; run eval/collect_traces.py with this output folder first",
    (*JUDGE, "--model", "/nope"): "key 'model' has the value '/nope': no such folder",
    (*JUDGE, "--generator", "/nope"): "key 'generator' has the value '/nope': no such folder",
    (*SERVE, "--port", "99999999"): "127.0.0.1:99999999 cannot be had (bind(): port must be 0-65535.); give another",
    (*SERVE, "--shared_port", "-1"): "127.0.0.1:-1 cannot be had",
    (*SERVE, "--judge", "/nope"): "key 'judge' has the value '/nope': no judge.json there; train one with",
    (*SERVE, "--n", "0"): "key 'n' has the value 0; it must be at least 1",
    (*SCORER, "--model", "/nope"): "key 'model' has the value '/nope': no such folder",
    (*SCORER, *MODEL, "--train", "/nope"): "/nope: no such folder of traces; make it with eval/collect_traces.py",
    (*SCORER, "--seed", "-1"): "key 'seed' has the value -1; give a whole number from 0",
    (*ASKED, "--judge", "/nope"): "key 'judge' has the value '/nope': no judge.json there; train one with",
    ("prune", *MODEL, "--problems", "no.jsonl", "--output_dir", "x"): "no.jsonl: no such file and no known set",
    (*TRAIN[:3],): "--accelerate_config is missing; give a file of configs/accelerate/",
    (*TRAIN, "--limits", "[100, 200"): "--limits has the value '[100, 200', which is not YAML",
    (*TRAIN, "--limits", "[-100]"): "key 'limits' has the value -100; a limit is a positive number of tokens",
    (*TRAIN, "--reward", "hard"): "key 'reward' has the value 'hard'; choose one of hard_limit, reference,",
    (*TRAIN, "--num_processes", "0"): "--num_processes has the value 0; it must be at least 1",
    (*TRAIN, "--problems", "README.md"): "README.md, line 1: not JSON",
    (*SINGLE, "--problems", "{a: README.md}", "--problem_count", "{a: 2}"): "README.md, line 1: not JSON",
    (*SINGLE, "--output_dir", "README.md"): "README.md: no folder that can be written to",
    (*SINGLE, "--seed", "-3"): "command line: key 'seed' has the value -3; give a whole number from 0",
    ("prune", *MODEL, "--problems", "README.md", "--output_dir", "x"): "README.md, line 1: not JSON",
    (
        "prune",
        *MODEL,
        "--problems",
        "words:test",
        "--problem_count",
        "0",
        "--output_dir",
        "x",
    ): "key 'problem_count' has the value 0; give at least 1",
    (*ASKED, "--output_dir", "README.md"): "README.md: no folder that can be written to",
    (*TRAIN, "--num_processes", "two"): "--num_processes has the value 'two'; give a number",
    (*TRAIN, "--problems", "no.jsonl"): "no.jsonl: no such file and no known set",
    (*TRAIN, "--problem_count", "null"): "'arithmetic:train' is endless: say by key 'problem_count' how",
    (*TRAIN, "--validation_count", "null"): "endless: say by key 'validation_count' how many problems to draw",
    (*TRACES, "--problem_counts", "{}"): "endless: say by key 'problem_counts' how many problems to draw",
    (*TRAIN, "--report_to", "wanb"): "key 'report_to' has the value 'wanb'; choose from none, all, azure_ml,",
    (*TRAIN, "--num_generations", "1"): "key 'num_generations' has the value 1; it must be at least 2",
    (*TRAIN, "--learning_rate", "fast"): "command line: key 'learning_rate' has the value 'fast': expected float",
    (*TRAIN, "--beta", "-1"): "command line: key 'beta' has the value -1.0; it must be 0 or more",
    (*TRAIN, "--loss_type", "dpo"): "command line: key 'loss_type' has the value 'dpo'; choose one of grpo,",
    (*TRAIN, "--num_generations", "7"): "a generation batch of 96 completions (2 processes) is no multiple of",
    (*TRAIN[:3], "--accelerate_config"): "command line: --accelerate_config has no value; write --acc",
    ("train",): "command line: --config is missing; pass --config configs/",
    ("ls", "nowhere"): "nowhere: no such folder; give the one that holds your runs",
    ("ls", "a", "b"): "unrecognized arguments: b; --help explains them all",
    ("doctor", "now"): "unrecognized arguments: now; --help explains them all",
    ("problems",): "the following arguments are required: source, path; --help explains them all",
    ("problems", "aime24", "x.jsonl", "--count", "few"): "argument --count: invalid int value: 'few'",
    ("tune", "--model", "/nope", "--output_dir", "x"): "key 'model' has the value '/nope': no such folder",
    ("report", "nowhere"): "nowhere: no such folder; give that of a table, a schedule or a whole run",
    ("report",): "the following arguments are required: ",
    ("check-reward",): "nothing to try: give 'reward', 'answer_from', or both",
    **WITHOUT_VLLM,
    ("completion", "fish"): "no completion for 'fish'; there is one for bash, zsh, tcsh",
}


@pytest.mark.parametrize("words", VALUES, ids=lambda words: " ".join(words)[-60:])
def test_a_wrong_value_is_one_line_before_torch_is_loaded(words: tuple[str, ...], repository: Path) -> None:
    said = secateur(repository, *words, allowed="('pydantic', 'numpy')")
    assert (said.returncode, said.stdout) == (2, ""), said.stderr
    assert said.stderr.count("\n") == 1 and said.stderr.startswith("error: ") and VALUES[words] in said.stderr


TRACE_FOLDER = ("--traces", "{base: trainers/embedded_model}")
OF_SCRIPTS = {
    ("trainers/grpo_len.py", "--config", "configs/demo/thinkprune.yaml", "--top_p", "9"): "key 'top_p' has the value",
    ("trainers/embedded.py", "--output_dir", "x", "--seed", "few"): "key 'seed' has the value 'few': expected int",
    ("trainers/embedded.py", "--output_dir", "x", "--batch_tokens", "-1"): "'batch_tokens' has the value -1; it must",
    ("trainers/judge_sweep.py", "--config", "configs/demo/judge_sweep.yaml", "--seeds", "few"): "key 'seeds' has the",
    (
        "eval/budget_forcing.py",
        "--config",
        "configs/demo/budget_forcing.yaml",
        *SINGLE[3:],
        "--budgets",
        "[0]",
    ): "from 1",
    ("eval/demo.py", "--judge", "best"): "key 'judge' has the value 'best': choose one of linear_own_states,",
    ("eval/joined.py", "--runs", "/nope"): "key 'runs' names '/nope': no combined.json there",
    ("eval/keywords.py", "--traces", "{base: /nope}"): "key 'traces.base' has the value '/nope': no such folder",
    ("eval/perplexity.py", *TRACE_FOLDER, *MODEL, "--batch_tokens", "0"): "key 'batch_tokens' has the value 0; give",
    ("eval/phases.py", *TRACE_FOLDER, "--tokenizer", "x", "--base_url", "host", "--model", "m"): "'base_url'",
    ("eval/real.py", "--seed", "-1"): "key 'seed' has the value -1; give 0 or more",
    ("eval/redundancy.py", "--traces", "/nope"): "/nope: no such file",
    ("eval/rule_sweep.py", "--config", "configs/demo/rule_sweep.yaml", "--sweep", "{k: [1]}"): "unknown key 'k'",
    ("rewards/check.py", "--reward", "hard_limit", "--limit", "3"): "key 'limit' has the value 3; give tokens, 10 or",
    ("schedules/model_card.py", "--run", "/nope"): "/nope: no finished schedule",
    ("schedules/wandb_report.py", "--run", "/nope"): "/nope: nothing of it was sent to W&B",
}
HEAVY = {"torch", "transformers", "trl", "scipy.stats", "scipy.cluster"}


@pytest.mark.parametrize("words", OF_SCRIPTS, ids=lambda words: words[0])
def test_a_wrong_value_ends_a_script_before_it_loads_what_takes_seconds(words: tuple[str, ...], repository: Path):
    said = subprocess.run(
        [sys.executable, "-X", "importtime", *words], cwd=repository, capture_output=True, text=True
    )
    lines = said.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    told = [line for line in lines if not line.startswith("import time:")]
    assert said.returncode == 2 and len(told) == 1 and OF_SCRIPTS[words] in told[0], told
    assert "psutil" in loaded and not loaded & HEAVY


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_reader_is_right_where_libraries_are_not(case: Case) -> None:
    """bench/command_lines.md has what they do."""
    assert judged(case, "ours") == "right"


def test_a_value_from_the_command_line_is_blamed_on_it(repository: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: trainers/embedded_model\nproblem: 1 + 1\nn: 4\n")
    command = [sys.executable, "-m", "secateur.cli", "prune", "--config", str(config)]
    theirs = subprocess.run([*command, "--n", "1"], cwd=repository, capture_output=True, text=True)
    assert theirs.stderr == "error: command line: key 'n' has the value 1; a vote takes at least 2 traces\n"
    config.write_text("model: trainers/embedded_model\nproblem: 1 + 1\nn: 1\n")
    ours = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert ours.stderr == f"error: {config}: key 'n' has the value 1; a vote takes at least 2 traces\n"


@pytest.mark.parametrize("value", ["-3", "abc"])
def test_a_key_of_a_schedule_is_blamed_on_the_command_line_too(value: str) -> None:
    with pytest.raises(InputError, match=r"^command line: key 'tolerance' has the value"):
        read_run_config(["--config", "configs/demo/thinkprune.yaml", "--tolerance", value])


def test_what_the_trainer_checks_is_blamed_on_the_file_alone_only_where_no_other_key_of_its_was_given() -> None:
    argv = ["--config", "configs/demo/thinkprune.yaml", "--tolerance", "0.2"]
    assert read_run_config(argv).where == argv[1]
    assert read_run_config([*argv, "--temperature", "0"]).where == f"{argv[1]} or command line"


def test_a_plan_is_the_dry_run_of_the_script(repository: Path, tmp_path: Path) -> None:
    words = ["--config", "configs/demo/combined.yaml", "--models", "{base: trainers/embedded_model}"]
    words += ["--judges", "{base: [values, random]}", "--output_dir", str(tmp_path / "out")]
    planned = [sys.executable, "-m", "secateur.cli", "plan", "table", *words]
    script = [sys.executable, "eval/combined.py", *words, "--dry_run", "true"]
    ours, theirs = (subprocess.run(one, cwd=repository, capture_output=True, text=True) for one in (planned, script))
    assert ours.returncode == theirs.returncode == 0 and "tokens" in ours.stdout, ours.stderr
    assert ours.stdout == theirs.stdout
    assert not (tmp_path / "out").exists()


def test_shells_complete_commands_and_keys(repository: Path, tmp_path: Path) -> None:
    said = secateur(repository, "completion", "bash")
    assert said.returncode == 0, said.stderr
    script = tmp_path / "completion.sh"
    script.write_text(said.stdout)
    asked = "COMP_WORDS=(secateur train --lim); COMP_CWORD=2; _shtab_secateur; echo ${COMPREPLY[@]}"
    offered = subprocess.run(["bash", "-c", f"source {script}; {asked}"], capture_output=True, text=True)
    assert "--limits" in offered.stdout.split(), offered.stderr


def test_the_doctor_prints_no_key(repository: Path) -> None:
    command = [sys.executable, "-m", "secateur.doctor"]
    secrets = {"WANDB_API_KEY": "wandb-0123456789", "HF_TOKEN": "hf_0123456789"}
    said = subprocess.run(command, cwd=repository, capture_output=True, text=True, env={**os.environ, **secrets})
    assert said.returncode == 0, said.stdout + said.stderr
    assert not any(secret in said.stdout + said.stderr for secret in secrets.values())
    assert "W&B: a key is there" in said.stdout and "Hub: " in said.stdout


def test_the_doctor_says_what_to_install() -> None:
    wrong = doctor._package(Requirement("numpy<1"), "")
    assert (wrong.state, wrong.remedy) == ("bad", "<1 belongs with the others: pip install 'numpy<1'")
    missing = doctor._package(Requirement("no-such-package>=2; extra == 'vllm'"), "vllm")
    assert (missing.state, missing.remedy) == ("note", "pip install 'secateur[vllm]', if you use it")
    assert doctor._extra(Requirement("gguf>=0.17; extra == 'gguf'")) == "gguf"
