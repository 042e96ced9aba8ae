"""What libraries that read configs and command lines make of users' mistakes, beside our own reader.

    pip install 'jsonargparse[signatures]' tyro cyclopts 'pydantic-settings[yaml]'   # in an environment of its own
    python bench/command_lines.py                                                      # prints bench/command_lines.md

The same eight keys are read by each library in the way its documents show; what it lacks (tyro and pydantic-settings
read no file that a command line names) is written here in a line or two. A case is a file, words and what should come
of them: values, or a refusal that names what is wrong in a line and ends with a code that is not 0.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

FILE = "config.yaml"
PLAIN = "model: base\n"


@dataclass
class Keys:
    """What is run.

    model: folder of the model.
    limits: tokens of each round.
    """

    model: str
    problem_count: int | None = None
    temperature: float = 0.6
    rule: Literal["sure", "quick"] = "sure"
    limits: list[int] = field(default_factory=lambda: [4000])
    judges: dict[str, str] = field(default_factory=dict)
    output_dir: str = "out"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"key 'temperature' has the value {self.temperature}; give 0 or more")


@dataclass(frozen=True)
class Case:
    """`file`: the text of the config, None for a name without a file. `wanted`: keys and their values, or texts that
    a refusal names."""

    name: str
    file: bytes | None
    words: Sequence[str]
    wanted: Mapping[str, Any] | Sequence[str]


def _given(name: str, words: str, wanted: Mapping[str, Any] | Sequence[str]) -> Case:
    return Case(name, PLAIN.encode(), words.split("|"), wanted)


def _written(name: str, text: str, wanted: Mapping[str, Any] | Sequence[str]) -> Case:
    return Case(name, text.encode(), (), wanted)


CASES = (
    _written("mistyped key in the file", PLAIN + "temprature: 1\n", ("temprature",)),
    _given("mistyped key on the command line", "--temprature|1", ("temprature",)),
    _written("wrong type in the file", PLAIN + "temperature: hot\n", ("temperature", "hot")),
    _given("wrong type on the command line", "--problem_count|many", ("problem_count", "many")),
    _given("bad choice", "--rule|fastest", ("rule", "sure", "quick")),
    _given("value out of range", "--temperature|-1", ("temperature", "-1")),
    _written("`true` for a number", PLAIN + "seed: true\n", ("seed",)),
    _written("`seed: 042` (34 in YAML 1.1)", PLAIN + "seed: 042\n", ("042",)),
    _written("`model: 12:30` (750 in YAML 1.1)", "model: 12:30\n", {"model": "12:30"}),
    _written("a key that is there twice", PLAIN + "seed: 1\nseed: 2\n", ("seed",)),
    Case("a file with a byte order mark", b"\xef\xbb\xbf" + PLAIN.encode(), (), {"model": "base"}),
    Case("no such file", None, (), (FILE,)),
    _written("no YAML", "model: [base\n", (FILE,)),
    _written("a list, not keys", "- base\n", (FILE,)),
    _written("an empty file", "", ("model",)),
    _written("a required key is missing", "seed: 1\n", ("model",)),
    _written(
        "`output_dir: ~/runs`", PLAIN + "output_dir: ~/runs\n", {"output_dir": str(Path("~/runs").expanduser())}
    ),
    _given("a list as one value", "--limits|200", {"limits": [200]}),
    _given("a list as several values", "--limits|200|100", {"limits": [200, 100]}),
    _given("a list as YAML", "--limits|[200, 100]", {"limits": [200, 100]}),
    _given("a mapping", "--judges|{base: values}", {"judges": {"base": "values"}}),
    _given("`null`", "--problem_count|null", {"problem_count": None}),
    _given("the command line over the file", "--model|other", {"model": "other"}),
    _given("a key without a value", "--seed", ("seed",)),
    _given("a stray word", "--seed|1|--model=x|more|words", ("more",)),
)


def by_ours(words: list[str]) -> Keys:
    from secateur.runtime.config import parse_config
    from secateur.runtime.errors import InputError
    from secateur.runtime.process import entry_point

    @dataclass
    class Checked(Keys):
        def __post_init__(self) -> None:
            try:
                super().__post_init__()
            except ValueError as error:
                raise InputError(str(error)) from None

    found: list[Keys] = []
    entry_point(lambda: found.append(parse_config(Checked, ["--config", FILE, *words])))()
    return found[0]


def by_jsonargparse(words: list[str]) -> Keys:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Keys)
    given = vars(parser.parse_args(["--config", FILE, *words]))
    return Keys(**{key: value for key, value in given.items() if key != "config"})


def by_tyro(words: list[str]) -> Keys:
    """It reads no file: its values become the defaults."""
    import tyro
    import yaml

    return tyro.cli(Keys, default=Keys(**yaml.safe_load(Path(FILE).read_text())), args=words)


def by_cyclopts(words: list[str]) -> Keys:
    from cyclopts import App, Parameter
    from cyclopts.config import Yaml

    app = App(config=Yaml(FILE, must_exist=True), result_action="return_value")

    @app.default
    def read(keys: Annotated[Keys, Parameter(name="*")]) -> Keys:
        return keys

    return app(words)


def by_pydantic_settings(words: list[str]) -> Any:
    """A class of its own kind: dataclasses are not read. Which file is meant cannot stand on its command line."""
    from pydantic import Field
    from pydantic_settings import BaseSettings, SettingsConfigDict, YamlConfigSettingsSource

    class Settings(BaseSettings):
        model_config = SettingsConfigDict(yaml_file=FILE, cli_parse_args=words, extra="forbid")
        model: str
        problem_count: int | None = None
        temperature: float = Field(0.6, ge=0)
        rule: Literal["sure", "quick"] = "sure"
        limits: list[int] = [4000]
        judges: dict[str, str] = {}
        output_dir: str = "out"
        seed: int = 0

        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, **_: Any) -> tuple[Any, ...]:
            return init_settings, YamlConfigSettingsSource(settings_cls)

    return Settings()


def by_trl(words: list[str]) -> Keys:
    from trl import TrlParser

    (keys,) = TrlParser([Keys]).parse_args_and_config(["--config", FILE, *words])
    return keys


READERS: Mapping[str, tuple[str, Callable[[list[str]], Any]]] = {
    "ours": ("", by_ours),
    "jsonargparse": ("jsonargparse", by_jsonargparse),
    "tyro": ("tyro", by_tyro),
    "cyclopts": ("cyclopts", by_cyclopts),
    "pydantic-settings": ("pydantic-settings", by_pydantic_settings),
    "TrlParser": ("trl", by_trl),
}


def judged(case: Case, reader: str) -> str:
    """`right`, or in a few words what came instead."""
    with tempfile.TemporaryDirectory() as folder:
        if case.file is not None:
            (Path(folder) / FILE).write_bytes(case.file)
        command = [sys.executable, __file__, "--read", reader, *case.words]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    told = [line for line in ended.stderr.splitlines() if line.strip()]
    if isinstance(case.wanted, Mapping):
        if ended.returncode:
            return "refused"
        found = json.loads(ended.stdout.splitlines()[-1])
        wrong = {key: found[key] for key in case.wanted if found[key] != case.wanted[key]}
        return f"read as {json.dumps(wrong)}" if wrong else "right"
    if not ended.returncode:
        return "taken"
    return _refusal(case.wanted, told, ended.stdout)


def _refusal(names: Sequence[str], told: Sequence[str], also: str) -> str:
    if any(line.startswith("Traceback") for line in told):
        return "traceback"
    text = "\n".join([*told, also])
    lacking = [name for name in names if name not in text]
    said = f"{len(told) + len(also.splitlines())} lines" if len(told) + len(also.splitlines()) > 1 else ""
    return ", ".join(part for part in (f"without {', '.join(lacking)}" if lacking else "", said) if part) or "right"


def processor_times(rounds: int = 5) -> dict[str, float]:
    """Reader → median processor time [s] of a command line without a mistake, all readers in turn."""
    times: dict[str, list[float]] = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_text(PLAIN)
        for _ in range(rounds):
            for name, taken in times.items():
                before = _children_s()
                command = [sys.executable, __file__, "--read", name, "--seed", "1"]
                subprocess.run(command, cwd=folder, capture_output=True, check=True)
                taken.append(_children_s() - before)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _fair(cells: Sequence[str]) -> int:
    return sum(cell == "right" or (cell.endswith("lines") and "without" not in cell) for cell in cells)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        keys = READERS[sys.argv[2]][1](sys.argv[3:])
        print(json.dumps(dataclasses.asdict(keys) if dataclasses.is_dataclass(keys) else keys.model_dump()))
        return
    heads = [f"{name} {version(package)}" if package else name for name, (package, _) in READERS.items()]
    print(_row(["case", *heads]), _row(["---"] * (len(heads) + 1)), sep="\n")
    found = {case.name: [judged(case, reader) for reader in READERS] for case in CASES}
    for name, cells in found.items():
        print(_row([name, *cells]))
    columns = list(zip(*found.values(), strict=True))
    print(_row([f"right, of {len(CASES)}", *(str(cells.count("right")) for cells in columns)]))
    print(
        _row(["read as meant, or refused by name in any number of lines", *(str(_fair(cells)) for cells in columns)])
    )
    times = processor_times()
    print(_row(["processor time ÷ ours", *(f"{seconds / times['ours']:.1f}" for seconds in times.values())]))


if __name__ == "__main__":
    main()
