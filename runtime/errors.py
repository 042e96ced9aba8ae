"""Errors that are the user's to mend."""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input: the message names the file and line, or the key, the value and the remedy."""


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a `main()` so that an `InputError` ends the process with its message and exit code 2, no traceback."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None

    return wrapped
