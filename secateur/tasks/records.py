"""The two records that every part shares: a problem, and one sampled trace of it, with their JSONL forms."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_jsonl
from secateur.tasks.answers.text import normalise, unbalanced


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
    are None, as in files made elsewhere. There, `answer` is the final answer where the file names it; a trace whose
    `text` is None has given none if it is None. `probes` are answers that were forced out of the unfinished trace
    every `probe_every` tokens (arXiv 2602.03845), None for one that gave none.
    """

    problem_id: str
    problem: str
    gold: str
    sample: int | str
    text: str | None
    model: str | None = None
    token_ids: tuple[int, ...] | None = None
    n_tokens: int | None = None
    finish_reason: str | None = None
    answer: str | None = None
    probe_every: int | None = None
    probes: tuple[str | None, ...] | None = None

    def to_json(self) -> dict[str, JSON]:
        found = {key.name: getattr(self, key.name) for key in fields(self)}
        known = {key: value for key, value in found.items() if value is not None}
        return known | ({"answer": self.answer} if self.text is None else {})

    def answer_by(self, extract: Callable[[str], str | None]) -> str | None:
        """Its final answer: the one that it names, else what `extract` takes out of its text."""
        if self.answer is not None or self.text is None:
            return self.answer
        return extract(self.text)

    def known_text(self) -> str:
        """Raises `InputError` for a trace that came without."""
        if self.text is None:
            raise InputError(
                f"sample {self.sample} of '{self.problem_id}' has an answer but no text, which is read here; give "
                "its 'text' as well"
            )
        return self.text


def read_problems(path: str | Path) -> list[Problem]:
    """Problems of a JSONL file (`id, problem, answer`, optional `group`; other keys are ignored), or those that a
    file of traces is about, each once.

    Raises `InputError` naming file and line for a missing key, an empty answer or an id seen before.
    """
    return list(read_problem_lines(path).values())


def read_problem_lines(path: str | Path) -> dict[int, Problem]:
    """`read_problems` with the line number of each problem, for messages about its content."""
    problems: dict[int, Problem] = {}
    seen: dict[str, Problem] = {}
    for line, record in read_jsonl(path):
        of_traces = "id" not in record and "problem_id" in record
        problem = (_problem_of_trace if of_traces else _problem_of)(record, f"{path}, line {line}")
        if problem.id not in seen:
            seen[problem.id] = problems[line] = problem
        elif not of_traces:
            raise InputError(f"{path}, line {line}: the id '{problem.id}' was used before; ids must be unique")
        elif problem != seen[problem.id]:
            raise InputError(f"{path}, line {line}: problem '{problem.id}' had another text or answer before")
    if not problems:
        raise InputError(f"{path}: holds no problem")
    return problems


def _problem_of(record: Mapping[str, JSON], where: str) -> Problem:
    _require(record, ("id", "problem", "answer"), where)
    name, answer = _id(record, "id", where), record["answer"]
    if isinstance(answer, str) and not answer.strip():
        raise InputError(f"{where}: problem '{name}' has an empty answer")
    return Problem(name, str(record["problem"]), _gold(answer, "answer", where), _optional_text(record.get("group")))


def _problem_of_trace(record: Mapping[str, JSON], where: str) -> Problem:
    wanted = ("problem_id", "gold") if record.get("text") is None else ("problem_id", "problem", "gold")
    _require(record, wanted, where)
    gold = _gold(record["gold"], "gold", where)
    if unbalanced(gold):
        raise InputError(f"{where}: the key 'gold' has the value {gold!r}, whose braces do not balance; mend it")
    return Problem(_id(record, "problem_id", where), _problem_text(record), gold)


def _id(record: Mapping[str, JSON], key: str, where: str) -> str:
    value = record[key]
    if not isinstance(value, str | int | float) or value in ("", math.inf):
        raise InputError(f"{where}: the key '{key}' has the value {value!r}; give the problem a name or a number")
    return str(value)


def _problem_text(record: Mapping[str, JSON]) -> str:
    """What stands without the text of its traces is read by nobody, and may go by its name."""
    return str(record["problem_id"] if record.get("problem") is None else record["problem"])


def trace_lines(path: str | Path) -> Iterator[tuple[str, Mapping[str, JSON]]]:
    """Where it stands and what it says, for every trace of a `.jsonl` or `.jsonl.gz` file.

    A line is a trace, or a problem with its `traces`, a list; these are numbered as they stand and take what they do
    not say from the problem. Raises `InputError` for a list that holds anything else.
    """
    for line, record in read_jsonl(path):
        where = f"{path}, line {line}"
        if "traces" not in record:
            yield where, record
            continue
        shared = {key: value for key, value in record.items() if key != "traces"}
        if not isinstance(record["traces"], list) or not all(isinstance(one, dict) for one in record["traces"]):
            raise InputError(f"{where}: the key 'traces' is to be a list of traces, each {{...}}")
        for sample, trace in enumerate(record["traces"]):
            yield f"{where}, trace {sample}", shared | {"sample": sample} | trace


def read_traces(path: str | Path) -> Iterator[Trace]:
    """Traces of a `.jsonl` or `.jsonl.gz` file, foreign ones included (see `trace_of`)."""
    for where, record in trace_lines(path):
        yield trace_of(record, where)


def trace_of(record: Mapping[str, JSON], where: str) -> Trace:
    """A trace from `problem_id, problem, gold, sample` and `text`, or `answer` and `n_tokens` in its place, where
    `problem` may be missing too; the other fields of `Trace` if known. Raises `InputError`, naming `where`, for a
    missing key or an impossible value."""
    problem = _problem_of_trace(record, where)
    _require(record, ("sample",), where)
    if record.get("text") is None and ("answer" not in record or record.get("n_tokens") is None):
        raise InputError(
            f"{where}: the key 'text' is missing, and so are 'answer' and 'n_tokens', which would also do"
        )
    try:
        return Trace(
            problem_id=problem.id,
            problem=problem.problem,
            gold=problem.answer,
            sample=_number_or_name(record["sample"]),
            text=_text(record.get("text")),
            model=_optional_text(record.get("model")),
            token_ids=_token_ids(record.get("token_ids")),
            n_tokens=_count(record, "n_tokens"),
            finish_reason=_optional_text(record.get("finish_reason")),
            answer=_answer(record.get("answer")),
            probe_every=_count(record, "probe_every"),
            probes=_probes(record),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: a value has the wrong type or is impossible ({error})") from None


def _require(record: Mapping[str, JSON], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if record.get(key) is None:
            raise InputError(f"{where}: the key '{key}' is missing; expected {', '.join(keys)}")


def _number_or_name(value: JSON) -> int | str:
    whole = isinstance(value, float) and value.is_integer() and value >= 0
    return int(value) if whole or str(value).isdecimal() else str(value)


def _optional_text(value: JSON) -> str | None:
    return None if value is None else str(value)


def _text(value: JSON) -> str | None:
    if isinstance(value, list | dict):  # of messages, say, whose spelling in Python nobody means
        raise TypeError(f"text is a {type(value).__name__}")
    return _optional_text(value)


def _gold(value: JSON, key: str, where: str) -> str:
    """A right answer, in words or as a number. A table that was exported without one has an empty one, or NaN."""
    found = _answer(value) if isinstance(value, str | int | float) else None
    listed = isinstance(value, list) or (found is not None and _LIST.fullmatch(found.strip()) is not None)
    if found is None or not normalise(found) or found.strip().lower() in _NO_GOLDS or listed:
        one = "; give the answer itself, not a list of it" if listed else ""
        raise InputError(
            f"{where}: the key '{key}' has the value {value!r}; every problem needs its right answer{one}"
        )
    if _EATEN.search(found):
        raise InputError(
            f"{where}: the key '{key}' has the value {value!r}, which holds a control character: in JSON a LaTeX "
            "command is written with two backslashes, as in \\\\frac"
        )
    return found


_NO_GOLDS = ("nan", "inf", "-inf", "[]", "{}", "()", "\\boxed{}")
_LIST = re.compile(r"\[\s*(['\"]).*\1\s*\]", re.DOTALL)
_EATEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]|[\t\n\r](?:imes|ext\{|frac|heta|an\b|eq\b|ight|ho\b)")


def _answer(value: JSON) -> str | None:
    """An answer in words or as a number; blank, null, NaN and "ERR", as Parallel-Probe writes it, are none."""
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"an answer is {value!r}, neither text nor a number")
    if value is None or value != value or str(value).strip() in ("", "ERR"):
        return None
    return str(value)


def _token_ids(value: JSON) -> tuple[int, ...] | None:
    """Ids as they are: a text would be read digit by digit, and 1.5 as 1."""
    if value is None:
        return None
    whole = isinstance(value, list) and set(map(type, value)) <= {int}
    if not whole or (value and not 0 <= min(value) <= max(value) < 2**31):
        raise ValueError("token_ids are to be a list of whole numbers, each the id of a token")
    return tuple(value)


def _count(record: Mapping[str, JSON], key: str) -> int | None:
    """A number of tokens."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53 or value != int(value):
        raise ValueError(f"{key} is {value!r}; a whole number of tokens is wanted")
    return int(value)


def _probes(record: Mapping[str, JSON]) -> tuple[str | None, ...] | None:
    probes = record.get("probes")
    if probes is None:
        return None
    if not isinstance(probes, list) or not record.get("probe_every"):
        raise ValueError("probes are a list of answers, and probe_every says how many tokens lie between two of them")
    return tuple(map(_answer, probes))
