"""A worker process that decides whether two answers are equal, one JSON line in, one JSON line out.

Run as `python -m tasks.grading_worker`. It lives in a process of its own because answers are hostile text: a tower
of powers can keep sympy busy for hours or eat all memory. The parent (grading_pool.py) holds the clock and kills;
the memory limit is set here.
"""

import json
import logging
import resource
import sys

MEMORY_LIMIT_BYTES = 2 * 1024**3


def equal(left: str, right: str) -> bool:
    """True if math-verify finds the two answers equal in either direction (its comparison is not symmetric)."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    def read(answer: str) -> list:
        configs = (LatexExtractionConfig(), ExprExtractionConfig())
        return parse(f"\\boxed{{{answer}}}", configs, parsing_timeout=None, raise_on_error=False)

    first, second = read(left), read(right)
    if not first or not second:
        return False
    options = {"timeout_seconds": None, "raise_on_error": False, "float_rounding": 6, "strict": True}
    return verify(first, second, **options) and verify(second, first, **options)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    logging.disable(logging.CRITICAL)  # math-verify reports every unreadable answer; here that is an ordinary "no"
    equal("1", "2")  # pay for the imports before the first answer is timed
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        left, right = json.loads(line)
        try:
            verdict = equal(left, right)
        except (Exception, RecursionError, MemoryError):  # unreadable is unequal; the parser may raise anything
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
