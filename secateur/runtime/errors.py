"""Errors that are the user's to mend."""

import errno
import functools
import sys
import time
from collections.abc import Callable, Iterator

from secateur.runtime.process import end_with_launcher

_ALONE_AFTER_S = 5.0
_NO_SPACE_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# safetensors and torch report a failed write as text; torch's archive writer only notices a wrong position
_NO_SPACE_TEXTS = (
    *("No space left", "quota exceeded", "File too large"),
    *("PytorchStreamWriter", ". unexpected pos ", "iostream error"),
)
_PEER_TEXTS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


class InputError(ValueError):
    """Bad input: the message names the file and line, or the key, the value and the remedy."""


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a `main()` so that an error that the user can mend ends the process with its message and no traceback.

    Exit codes: 2 for an `InputError`, 1 for a full disk and for the end of another process of the launch. In a launch
    of several processes an error is shown once. A launcher that dies takes its processes with it.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        end_with_launcher()
        try:
            main()
        except InputError as error:
            _leave(str(error), 2)
        except Exception as error:
            message = _explain(error)
            if message is None:
                raise
            _leave(message, 1)

    return wrapped


def _leave(message: str, code: int) -> None:
    """Processes usually fail alike: the others give the main one time to say it and the launcher to end them."""
    from secateur.runtime.ranks import current_ranks  # which needs InputError

    ranks = current_ranks()
    if not ranks.is_main:
        time.sleep(_ALONE_AFTER_S)
    print(f"error{ranks.note if not ranks.is_main else ''}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _explain(error: BaseException) -> str | None:
    """What the user can do about it, None if the error is ours."""
    for cause in _causes(error):
        if is_no_space(cause):
            name = getattr(cause, "filename", None) or "a file"
            return (
                f"disk full, or a limit of file sizes reached, while writing {name} ({cause}); free space and start "
                "the same command again: nothing complete is lost"
            )
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_TEXTS):
        return "another process of this launch has ended; see its message, then start the same command again"
    return None


def is_no_space(error: BaseException) -> bool:
    """Whether a write failed for want of space, as the standard library, torch or safetensors say it."""
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE_CODES
    return any(text in str(error) for text in _NO_SPACE_TEXTS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
