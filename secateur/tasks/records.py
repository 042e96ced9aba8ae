"""The two records that every part shares: a problem, and one sampled trace of it, with their JSONL forms."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_jsonl


@dataclass(frozen=True)
class Problem:
    """`answer` is the gold answer; `group` names what belongs together beyond one problem (a rule, a subject)."""

    id: str
    problem: str
    answer: str
    group: str | None = None


@dataclass(frozen=True)
class Trace:
    """One sampled completion.

    `sample` is its number within the problem (a name in some foreign files); `n_tokens` [tokens] counts the engine's
    ids, end token included; `finish_reason` is "stop" (ended by itself) or "length" (ran into the cap). Unknown facts
    are None, as in files made elsewhere.
    """

    problem_id: str
    problem: str
    gold: str
    sample: int | str
    text: str
    model: str | None = None
    token_ids: tuple[int, ...] | None = None
    n_tokens: int | None = None
    finish_reason: str | None = None

    def to_json(self) -> dict[str, JSON]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def read_problems(path: str | Path) -> list[Problem]:
    """Problems of a JSONL file (`id, problem, answer`, optional `group`; other keys are ignored).

    Raises `InputError` naming file and line for a missing key, an empty answer or an id seen before.
    """
    return list(read_problem_lines(path).values())


def read_problem_lines(path: str | Path) -> dict[int, Problem]:
    """`read_problems` with the line number of each problem, for messages about its content."""
    problems: dict[int, Problem] = {}
    seen: set[str] = set()
    for line, record in read_jsonl(path):
        _require(record, ("id", "problem", "answer"), path, line)
        problem = Problem(
            str(record["id"]), str(record["problem"]), str(record["answer"]), _optional_text(record.get("group"))
        )
        if not problem.answer.strip():
            raise InputError(f"{path}, line {line}: problem '{problem.id}' has an empty answer")
        if problem.id in seen:
            raise InputError(f"{path}, line {line}: the id '{problem.id}' was used before; ids must be unique")
        seen.add(problem.id)
        problems[line] = problem
    if not problems:
        raise InputError(f"{path}: holds no problem")
    return problems


def read_traces(path: str | Path) -> Iterator[Trace]:
    """Traces of a `.jsonl` or `.jsonl.gz` file, foreign ones included (see `Trace` for the optional keys)."""
    for line, record in read_jsonl(path):
        _require(record, ("problem_id", "problem", "gold", "sample", "text"), path, line)
        token_ids = record.get("token_ids")
        try:
            yield Trace(
                problem_id=str(record["problem_id"]),
                problem=str(record["problem"]),
                gold=str(record["gold"]),
                sample=_number_or_name(record["sample"]),
                text=str(record["text"]),
                model=_optional_text(record.get("model")),
                token_ids=None if token_ids is None else tuple(int(token) for token in token_ids),
                n_tokens=None if record.get("n_tokens") is None else int(record["n_tokens"]),
                finish_reason=_optional_text(record.get("finish_reason")),
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {line}: a value has the wrong type ({error})") from None


def _require(record: dict[str, JSON], keys: tuple[str, ...], path: str | Path, line: int) -> None:
    for key in keys:
        if record.get(key) is None:
            raise InputError(f"{path}, line {line}: the key '{key}' is missing; expected {', '.join(keys)}")


def _number_or_name(value: JSON) -> int | str:
    return int(value) if str(value).isdecimal() else str(value)


def _optional_text(value: JSON) -> str | None:
    return None if value is None else str(value)
