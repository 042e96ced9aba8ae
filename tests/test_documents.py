"""What the documents point at is there: files, anchors, configs, and the keys of the commands they show."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from trl import GRPOConfig

from schedules.config import ScheduleConfig
from secateur.cli import COMMANDS
from secateur.runtime.config import split_command_line
from secateur.tasks.arithmetic import SPLIT_BUCKETS, SPLIT_RULES
from secateur.tasks.word_problems import SPLITS
from tools.config_docs import slug
from tools.config_keys import find_commands

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "bench/*.md")
    for path in REPOSITORY.glob(pattern)
)
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def anchors(path: Path) -> set[str]:
    """GitHub's, a second heading of the same name with -1 behind it."""
    headings = re.findall(r"^#+ +(.*)$", _FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
    found: dict[str, int] = {}
    for heading in headings:
        name = slug(re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip())
        found[name] = found.get(name, 0) + 1
    return {f"{name}-{again}" if again else name for name, times in found.items() for again in range(times)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = REPOSITORY / document
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{document}: no file {target}"
        if anchor:
            assert anchor in anchors(linked), f"{document}: no heading {target}; there are {sorted(anchors(linked))}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_configs_that_are_named_exist(document: str) -> None:
    """By their path, or by the bare name of a file in configs/."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    known = {path.name for path in (REPOSITORY / "configs").rglob("*.yaml")} | {"config.yaml"}
    for name in re.findall(r"[\w./-]+\.yaml\b", text):
        if "/" in name and not name.startswith("/"):
            assert (REPOSITORY / name).is_file() or Path(name).name == "config.yaml", f"{document}: {name}"
        elif not name.startswith("/"):
            assert name in known, f"{document}: {name}"


def shown_commands(document: str) -> list[list[str]]:
    """The words of every command in the shell blocks of a document, comments and prompts left out."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [as_script(words) for line in lines if (words := shlex.split(line, comments=True))]


def as_script(words: list[str]) -> list[str]:
    """`secateur single …` and `secateur plan single …` are the script."""
    if words[0] != "secateur":
        return words
    rest = words[1 + (words[1] == "plan") :]
    assert rest[0] in {*COMMANDS, "completion"}, words
    return [COMMANDS.get(rest[0], rest[0]), *rest[1:]]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_the_keys_that_their_configs_know(document: str) -> None:
    """Every `--key value` of a command that is shown is a key of the script, and its values are YAML."""
    known = {command.path: command for command in find_commands() if command.config is not None}
    for words in shown_commands(document):
        scripts = [index for index, word in enumerate(words) if word in known]
        if not scripts:
            continue
        command, rest = known[words[scripts[0]]], words[scripts[0] + 1 :]
        config, overrides = split_command_line([word for word in rest if word != "&"])
        assert config is None or (REPOSITORY / config).is_file(), f"{document}: {' '.join(words)}"
        launch = {option.lstrip("-") for option in command.launch_options}
        keys = set(getattr(command.config, "__dataclass_fields__", ())) | launch
        if command.config is ScheduleConfig:
            keys |= set(GRPOConfig.__dataclass_fields__) | {"check_for_processes"}
        if config is not None:
            keys |= set(yaml.safe_load((REPOSITORY / config).read_text(encoding="utf-8")))
        assert set(overrides) <= keys, f"{document}: {' '.join(words)}: {sorted(set(overrides) - keys)}"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("prune my model", "schedules/run.py"),
        ("train a judge", "trainers/judge.py"),
        ("call it from my program", "prune("),
        ("compare it with DeepConf", "eval/combined.py"),
    ],
)
def test_the_first_table_of_the_readme_leads_to_a_command(wish: str, words: str) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines()[:40] if line.startswith("|") and wish in line)
    anchor = re.search(r"\]\(#([\w-]+)\)", row)[1]
    section = next(part for part in re.split(r"^## ", text, flags=re.M) if slug(part.partition("\n")[0]) == anchor)
    assert words in re.search(r"^```\w+\n(.*?)^```", section, re.M | re.S)[1]


def test_the_splits_of_drawn_tasks_are_in_the_table() -> None:
    text = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    listed = {row[0].strip("`"): row for row in rows if len(row) == 4}
    assert {name for name, row in listed.items() if row[1] != "–"} == set(SPLIT_BUCKETS)
    assert {name for name, row in listed.items() if row[2] != "–"} == set(SPLITS)
    seen = {name for name, row in listed.items() if row[1] == "the seen rules"}
    assert seen == set(SPLIT_RULES), "the other splits draw from all rules"


@pytest.mark.slow
def test_the_page_to_begin_with_can_be_followed_as_it_stands(tmp_path: Path) -> None:
    """All but the installation, with outputs in a folder of the test."""
    for words in shown_commands("docs/start.md"):
        if words[0] in ("make", ".", "eval"):
            continue
        moved = [word.replace("outputs/start", str(tmp_path)) for word in words]
        done = subprocess.run([sys.executable, *moved], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    assert len((tmp_path / "answers" / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 12
    assert "At what loss?" in (tmp_path / "table" / "report.html").read_text(encoding="utf-8")
