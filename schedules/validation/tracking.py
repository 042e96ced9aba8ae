"""What a round's choice looks like in W&B: numbers over rounds, the table of candidates, samples, the picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from schedules.choice import name_of
from schedules.records import SelectionRecord
from schedules.rounds import Round
from schedules.validation.sampling import BENCHMARK, candidate_name
from secateur.runtime.console import CsvValue
from secateur.runtime.files import JSON, read_jsonl
from secateur.runtime.tracking import Publication

COLUMNS = ("candidate", "verdict", "problem_id", "sample", "tokens", "gold", "completion")
PER_VERDICT = 3
_CHARACTERS = 20_000  # of a completion; a long one loses its middle


def pick_samples(folder: Path, candidate: str) -> list[list[CsvValue]]:
    """Rows of `COLUMNS`: `PER_VERDICT` of each verdict, from different problems where there are any.

    `folder` holds `results.jsonl` and the traces of one candidate (see eval/single.py).
    """
    wanted: dict[tuple[str, int], str] = {}
    for verdict in ("right", "wrong", "truncated"):
        wanted |= dict.fromkeys(_first_of(folder / "results.jsonl", verdict), verdict)
    rows = [
        [candidate, wanted[key], *key, line["n_tokens"], line["gold"], shorten(line["text"])]
        for key, line in _traces(folder)
        if key in wanted
    ]
    return sorted(rows, key=lambda row: (row[1], row[2], row[3]))


def _first_of(results: Path, verdict: str) -> list[tuple[str, int]]:
    lines = [line for _, line in read_jsonl(results) if _verdict(line) == verdict]
    lines.sort(key=lambda line: (line["sample"], line["problem_id"]))  # sample 0 of every problem comes first
    return [(line["problem_id"], line["sample"]) for line in lines[:PER_VERDICT]]


def _verdict(line: Mapping[str, JSON]) -> str:
    if line["finish_reason"] == "length":
        return "truncated"
    return "right" if line["correct"] else "wrong"


def _traces(folder: Path) -> Iterator[tuple[tuple[str, int], Mapping[str, JSON]]]:
    for path in sorted(folder.glob("traces-rank*.jsonl")):
        for _, line in read_jsonl(path):
            yield (line["problem_id"], line["sample"]), line


def shorten(text: str, characters: int = _CHARACTERS) -> str:
    """`text`, or its beginning and end with a note between.

    >>> shorten("abcdefgh", 4)
    'ab\\n… 4 characters left out …\\ngh'
    """
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


CANDIDATE_COLUMNS = (
    *("round", "limit", "candidate", "pass@1", "pass@1 low", "pass@1 high"),
    *("mean tokens", "mean tokens low", "mean tokens high", "truncated share", "samples", "feasible", "chosen"),
    "reason",
)


def round_publication(
    selections: Sequence[tuple[Round, SelectionRecord]], round_folder: Path, picture: Path
) -> Publication:
    """The last of `selections`, whose files lie in `round_folder`; the table holds all rounds so far."""
    round_, record = selections[-1]
    chosen = record.chosen
    rows = [row for other, selection in selections for row in candidate_rows(other, selection)]
    return Publication(
        numbers={
            "round": round_.index,
            "limit": round_.limit,
            "chosen/step": chosen.step,
            "chosen/pass_at_1": chosen.pass_at_1,
            "chosen/mean_tokens": chosen.mean_tokens,
            "chosen/truncated_share": chosen.truncated_share,
        },
        tables={
            "validation/candidates": (CANDIDATE_COLUMNS, rows),
            "validation/samples": (COLUMNS, sample_rows(record, round_folder)),
        },
        pictures={"validation/rounds": picture} if picture.is_file() else {},
        summary={f"choice/{round_.name}": record.reason},
    )


def candidate_rows(round_: Round, record: SelectionRecord) -> list[list[CsvValue]]:
    """Rows of `CANDIDATE_COLUMNS`; the reason stands beside the chosen one."""
    rows: list[list[CsvValue]] = []
    for one in record.candidates:
        chosen = one.step == record.chosen_step
        accuracy, length = (one.pass_at_1, *one.pass_at_1_ci95), (one.mean_tokens, *one.mean_tokens_ci95)
        verdict = [one.truncated_share, one.samples, one.feasible, chosen, record.reason if chosen else ""]
        rows.append([round_.index, round_.limit, name_of(one.step), *accuracy, *length, *verdict])
    return rows


def sample_rows(record: SelectionRecord, round_folder: Path) -> list[list[CsvValue]]:
    """Samples of the chosen candidate; none where it is a start model that an earlier round has sampled."""
    name = candidate_name(record.chosen_step)
    folder = round_folder / "validation" / name / BENCHMARK
    return pick_samples(folder, name) if (folder / "results.jsonl").is_file() else []
