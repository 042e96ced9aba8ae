"""Which of a table's options decide what a row means: rows stand in one table only if these agree."""

from collections.abc import Collection, Mapping, Sequence

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

SETTINGS = (
    "problems",
    "problem_count",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "prompt_family",
    "system_prompt",
    "instruction",
    "answer_from",
    "seed",
    "dtype",
)
"""Config keys that decide what a row means; the version of the grader joins them. The seed is the seed policy: every
trace's own seed follows from it, the problem's id and the sample number."""
_SAMPLED = ("temperature", "top_p", "top_k", "max_tokens", "prompt_family", "system_prompt", "instruction", "dtype")
"""Of these, what says how traces were sampled, which is not known of imported ones."""
MAY_GROW = ("problems", "problem_count", "n")
"""What a folder that is gone on with may change: all rows are made anew then, from more or fewer of the traces (the
trace folder itself guards `problems`)."""
FORGET = "give another output_dir, or delete that file: everything is then graded anew from the stored texts"


def table_settings(config: Mapping[str, JSON], grader: str) -> dict[str, JSON]:
    """The settings of a run; `config` has the keys of a `CombinedConfig`. Of several n it is the largest, which was
    sampled and which the others are parts of."""
    n = config["n"]
    unknown = dict.fromkeys(_SAMPLED) if config.get("imports") else {}
    fixed = {"n": max(n) if isinstance(n, list) else n, "grader": grader}
    return {key: config[key] for key in SETTINGS} | unknown | fixed


def check_same_settings(
    there: Mapping[str, JSON], here: Mapping[str, JSON], where: str, remedy: str, free: Collection[str] = ()
) -> None:
    """Raise `InputError` naming `where`, the first key that differs, both values and the remedy.

    Keys of `free` are passed over.
    """
    for key in here:
        if key not in free and there.get(key) != here[key]:
            raise InputError(
                f"{where}: key '{key}' is {there.get(key)!r} there and {here[key]!r} here, so the rows would not "
                f"belong in one table; {remedy}"
            )


def check_joinable(runs: Sequence[tuple[str, Mapping[str, JSON]]]) -> None:
    """Raise `InputError` unless all runs, (where, settings) each, were made with the settings of the first."""
    for where, settings in runs[1:]:
        remedy = f"leave it out, or make it again with the settings of {runs[0][0]}"
        check_same_settings(settings, runs[0][1], where, remedy)
