"""Tables of several runs in one: rows that belong together, and what is said of those that do not."""

from dataclasses import replace
from pathlib import Path

import pytest

from eval.joined import join
from secateur.engines.accounting import Usage
from secateur.results import Table, write_table
from secateur.runtime.errors import InputError
from tests.report_runs import make_difference, make_recommendation, make_row, make_table


def table(judge: str, **changes: object) -> Table:
    rows = [
        make_row(model, *of, 0.5, 0.2)
        for model in ("base", "pruned")
        for of in (("consensus", None), ("deepprune", judge))
    ]
    found = make_table(
        rows,
        {"models": {"base": "a", "pruned": "b"}},
        differences=(make_difference("same"), make_difference(f"by {judge}")),
        recommendations=(make_recommendation(words=("of one run",)),),
        settings={"n": 4, "grader": "g"},
    )
    return replace(found, **changes)


def stored(folder: Path, *tables: Table) -> list[Path]:
    for number, one in enumerate(tables):
        write_table(folder / str(number), one)
    return [folder / str(number) / "combined.json" for number in range(len(tables))]


def test_each_row_and_difference_is_there_once_model_by_model(tmp_path: Path) -> None:
    joined = join(stored(tmp_path, table("linear"), table("pairwise")))
    assert [(row.model, row.judge) for row in joined.rows] == [
        (model, judge) for model in ("base", "pruned") for judge in (None, "linear", "pairwise")
    ]
    assert [one.label for one in joined.differences] == ["same", "by linear", "by pairwise"]
    assert joined.recommendations == () and joined.n == (4,), "advice of one run is none of all"


def test_the_largest_n_comes_first(tmp_path: Path) -> None:
    more = table("linear")
    more = replace(more, rows=tuple(replace(row, n=8) for row in more.rows), n=(8,))
    joined = join(stored(tmp_path, table("linear"), more))
    assert [row.n for row in joined.rows] == [8] * 4 + [4] * 4 and joined.n == (4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"n": 4, "grader": "h"}}, r"1.combined\.json: key 'grader' is 'h' there and 'g' here"),
        ({"config": {"models": {"pruned": "b"}}}, r"against the model 'pruned', those of .* against 'base'"),
        (
            {"rows": (make_row("base", "consensus", None, 0.123, 0.2),)},
            r"mine with n = 4: the row 'base/consensus' has accuracy 0\.123, in another of the runs 0\.5",
        ),
        (
            {"rows": (make_row("base", "consensus", None, 0.5, 0.2, tokens=Usage(generated=7)),)},
            r"has tokens \{'generated': 7\.0, .*'generated': 1000\.0",
        ),
    ],
)
def test_what_does_not_belong_together_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        join(stored(tmp_path, table("linear"), table("linear", **changes)))
