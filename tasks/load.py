"""Problems by name: a JSONL file of the user's, or a split of the embedded arithmetic task."""

from runtime.errors import InputError
from tasks import arithmetic
from tasks.records import Problem, read_problems

EMBEDDED = "arithmetic:"


def load_problems(source: str, count: int | None = None, seed: int = 0) -> list[Problem]:
    """Up to `count` problems of `source` (all if None).

    `source` is the path of a JSONL file (its first `count` problems; `seed` plays no part) or `arithmetic:<split>`,
    drawn with `seed`; then `count` is required. Raises `InputError` for a file that is none or holds too few.
    """
    if count is not None and count < 1:
        raise InputError(f"the number of problems must be at least 1, not {count}")
    if source.startswith(EMBEDDED):
        return _embedded(source, count, seed)
    problems = read_problems(source)
    if count is not None and count > len(problems):
        raise InputError(f"{source}: holds {len(problems)} problems, but {count} were asked for; lower the number")
    return problems[:count]


def _embedded(source: str, count: int | None, seed: int) -> list[Problem]:
    if count is None:
        raise InputError(f"'{source}' is endless: say how many problems to draw")
    return arithmetic.make_problems(source.removeprefix(EMBEDDED), count, seed=seed)
