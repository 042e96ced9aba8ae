"""Training, validation and evaluation sets on the Hugging Face Hub, each pinned to one commit.

A set is a record: where it lies, which commit, how a row becomes a problem, how many problems there must be. The
commits were read in several public projects that pin the same repositories (docs/data.md says which facts were found
where). What is loaded is compared with the record, so a repository that changed, or another revision left in the
cache, ends the run with a message instead of other figures.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks
from secateur.tasks.prompts import CHOICE_LETTERS, choice_question
from secateur.tasks.records import Problem

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
EURUS_SUFFIX = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
AMC_AIME = "numina_amc_aime"
_AIME_URL = re.compile(r"/(?P<year>\d{4})_AIME_(?P<contest>I{1,2})_Problems/Problem_(?P<number>\d+)")


@dataclass(frozen=True)
class HubSet:
    """`read(row, number)` gives the problem of a row, None if the row belongs to another set; `number` counts rows.

    `columns` are those that `read` needs; `count` is the range in which the number of problems must lie; `keep` are
    parquet filters, so that a small part of a large repository is all that is unpacked.
    """

    repository: str
    revision: str
    split: str
    columns: tuple[str, ...]
    read: Callable[[Row, int], Problem | None]
    count: range
    config: str | None = None
    keep: tuple[tuple[str, str, str], ...] = ()
    gated: bool = False

    @property
    def where(self) -> str:
        """
        >>> HUB_SETS["gpqa_diamond"].where
        'Idavidrein/gpqa (gpqa_diamond, train) at 83022cef'
        """
        part = ", ".join(name for name in (self.config, self.split) if name)
        return f"{self.repository} ({part}) at {self.revision[:8]}"


def load_hub_set(name: str) -> list[Problem]:
    """The problems of a named set, in the order of the repository.

    Raises `InputError` if it cannot be fetched, lies in the cache in another revision only, or is not as recorded.
    """
    wanted = HUB_SETS[name]
    return problems_of(_fetch(name, wanted), name, wanted)


def problems_of(rows: "Dataset", name: str, wanted: HubSet) -> list[Problem]:
    """The problems among `rows`. Raises `InputError` if columns, a row or the number are not as recorded."""
    missing = sorted(set(wanted.columns) - set(rows.column_names))
    if missing:
        raise InputError(
            f"{name}: {wanted.where} lacks the column {', '.join(missing)}; it has {', '.join(rows.column_names)}"
        )
    problems = list(_read_rows(rows, name, wanted))
    if len(problems) not in wanted.count:
        lowest, highest = wanted.count[0], wanted.count[-1]
        expected = str(lowest) if lowest == highest else f"{lowest} to {highest}"
        raise InputError(
            f"{name}: {wanted.where} gave {len(problems)} problems out of {len(rows)} rows, expected {expected}; the "
            "download may be damaged: delete it from the cache (HF_HOME) and run again"
        )
    return problems


def _read_rows(rows: Iterable[Row], name: str, wanted: HubSet) -> Iterable[Problem]:
    for number, row in enumerate(rows):
        try:
            problem = wanted.read(row, number)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{name}: {wanted.where}, row {number}: not as expected ({error!r})") from None
        if problem is None:
            continue
        if not problem.problem.strip() or not problem.answer.strip():
            raise InputError(f"{name}: {wanted.where}, row {number} ('{problem.id}'): problem or answer is empty")
        yield problem


def _fetch(name: str, wanted: HubSet) -> "Dataset":
    import httpx
    from datasets import disable_progress_bars, load_dataset, logging
    from datasets.exceptions import DatasetsError

    if not current_ranks().is_main:  # one process says it for all
        disable_progress_bars()
        logging.set_verbosity_error()
    options = {"filters": [tuple(entry) for entry in wanted.keep]} if wanted.keep else {}
    try:
        rows = load_dataset(wanted.repository, wanted.config, split=wanted.split, revision=wanted.revision, **options)
    except (DatasetsError, OSError, ValueError, httpx.HTTPError) as error:
        raise InputError(f"{name}: {wanted.where} could not be loaded: {_reason(error)}. {_remedy(wanted)}") from None
    _check_revision(rows, name, wanted)
    return rows


def _check_revision(rows: "Dataset", name: str, wanted: HubSet) -> None:
    """Without the Hub, `load_dataset` takes the newest prepared copy whatever its revision: refuse another one."""
    found = {Path(entry["filename"]).parent.name for entry in rows.cache_files}
    if found != {wanted.revision}:
        raise InputError(
            f"{name}: the Hub could not be reached and the cache holds {wanted.repository} at "
            f"{', '.join(sorted(found)) or 'no revision'} instead of {wanted.revision}: delete that copy. "
            f"{_remedy(wanted)}"
        )


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: `datasets` wraps what went wrong in "an error occurred"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400].rstrip('.')}"


def _remedy(wanted: HubSet) -> str:
    gated = (
        f"It is a gated set: accept its terms at huggingface.co/datasets/{wanted.repository} and set HF_TOKEN. "
        if wanted.gated
        else ""
    )
    return (
        f"{gated}On a machine without network, load it once where there is one and share that cache (HF_HOME), or "
        "write it to a file there (secateur problems NAME FILE.jsonl) and name the file instead"
    )


def _competition_row(row: Row, number: int) -> Problem:
    """Eurus-2-RL-Data: the question is the last user turn, without the suffix, as in ThinkPrune's preprocessing."""
    question = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"][-1]
    answer = row["reward_model"]["ground_truth"]
    return Problem(f"{AMC_AIME}-{number}", question.removesuffix(EURUS_SUFFIX), str(answer), AMC_AIME)


def _aime_reader(year: int) -> Callable[[Row, int], Problem | None]:
    def read(row: Row, number: int) -> Problem | None:
        place = _AIME_URL.search(row["url"])
        if place is None:
            raise ValueError(f"no AIME address: {row['url']!r}")
        if int(place["year"]) != year:
            return None
        name = f"aime{year}-{place['contest']}-{place['number']}"
        return Problem(name, row["problem"], _integer(row["answer"]), f"AIME {year}")

    return read


def _aime25_row(row: Row, number: int) -> Problem:
    return Problem(f"aime2025-{row['id']}", row["problem"], _integer(row["answer"]), "AIME 2025")


def _amc23_row(row: Row, number: int) -> Problem:
    return Problem(f"amc2023-{row['id']}", row["question"], _integer(row["answer"]), "AMC 2023")


def _math500_row(row: Row, number: int) -> Problem:
    return Problem(row["unique_id"], row["problem"], str(row["answer"]), row["subject"])


def _gsm8k_row(row: Row, number: int) -> Problem:
    """The number behind the worked solution's last ####, without commas between thousands."""
    _, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError(f"no #### before an answer: {row['answer'][-60:]!r}")
    return Problem(f"gsm8k-test-{number}", row["question"], answer.strip().replace(",", ""))


def _olympiad_row(row: Row, number: int) -> Problem:
    """The first listed final answer is the gold one, as in ThinkPrune's evaluation."""
    context = f"{row['context']}\n" if row.get("context") else ""
    return Problem(
        f"olympiadbench-{row['id']}", context + row["question"], str(row["final_answer"][0]), row["subfield"]
    )


def _gpqa_row(row: Row, number: int) -> Problem:
    """Multiple choice; the order of the options depends on the record id alone, so it is the same in every run."""
    name = row["Record ID"]
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {index}"] for index in (1, 2, 3))]
    order = sorted(range(4), key=lambda index: hashlib.sha256(f"{name}|{index}".encode()).digest())
    text = choice_question(row["Question"].strip(), [options[index].strip() for index in order])
    return Problem(f"gpqa-{name}", text, CHOICE_LETTERS[order.index(0)], row["High-level domain"])


def _integer(answer: str | float) -> str:
    """Some repositories store whole numbers as floats or with leading zeros; anything else is left as it is.

    >>> _integer(27.0), _integer("073"), _integer("336^\\\\circ")
    ('27', '73', '336^\\\\circ')
    """
    try:
        number = float(answer)
    except ValueError:
        return str(answer)
    return str(int(number)) if number.is_integer() else str(answer)


def _exactly(count: int) -> range:
    return range(count, count + 1)


def _aime_set(year: int) -> HubSet:
    return HubSet(
        repository="AI-MO/aimo-validation-aime",
        revision="13f9e12f613e720c2a2b2f345dd04b998a29494d",
        split="train",
        columns=("problem", "answer", "url"),
        read=_aime_reader(year),
        count=_exactly(30),
    )


HUB_SETS: dict[str, HubSet] = {
    AMC_AIME: HubSet(
        repository="PRIME-RL/Eurus-2-RL-Data",
        revision="9776b13264b5aaa0b16495fcf086a0a8d86fd655",
        split="train",
        columns=("prompt", "reward_model"),
        read=_competition_row,
        # 19 batches of 128 prompts fit into an epoch of the paper's runs; NuminaMath, the origin, has 4,070 amc_aime.
        count=range(19 * 128, 4071),
        keep=(("data_source", "==", AMC_AIME),),
    ),
    "aime22": _aime_set(2022),
    "aime23": _aime_set(2023),
    "aime24": _aime_set(2024),
    "aime25": HubSet(
        repository="math-ai/aime25",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        split="test",
        columns=("id", "problem", "answer"),
        read=_aime25_row,
        count=_exactly(30),
    ),
    "math500": HubSet(
        repository="HuggingFaceH4/MATH-500",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        split="test",
        columns=("unique_id", "problem", "answer", "subject"),
        read=_math500_row,
        count=_exactly(500),
    ),
    "amc23": HubSet(
        repository="math-ai/amc23",
        revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
        split="test",
        columns=("id", "question", "answer"),
        read=_amc23_row,
        count=_exactly(40),
    ),
    "gsm8k": HubSet(
        repository="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",
        config="main",
        split="test",
        columns=("question", "answer"),
        read=_gsm8k_row,
        count=_exactly(1319),
    ),
    "olympiadbench": HubSet(
        repository="Hothan/OlympiadBench",
        revision="91184b52131e7fc9455fef848035173aea8cc01a",
        config="OE_TO_maths_en_COMP",  # open-ended, text only, mathematics, English, competition
        split="train",
        columns=("id", "question", "final_answer", "subfield"),
        read=_olympiad_row,
        count=_exactly(674),
    ),
    "gpqa_diamond": HubSet(
        repository="Idavidrein/gpqa",
        revision="83022cefff930aea54f654c0b282e74b9eeda5c6",
        config="gpqa_diamond",
        split="train",
        columns=(
            *("Record ID", "Question", "High-level domain", "Correct Answer"),
            *(f"Incorrect Answer {index}" for index in (1, 2, 3)),
        ),
        read=_gpqa_row,
        count=_exactly(198),
        gated=True,
    ),
}
