"""`accelerate launch` on one machine, for schedules/launch.py.

Where a process has told the schedule why it ends, the launcher adds nothing: its traceback and its log speak of its
own lines only.

    python -m schedules.quiet_launch --config_file FILE script.py …
"""

import logging
import subprocess

from secateur.runtime.process import has_told

_TALKATIVE = "torch.distributed.elastic.multiprocessing.api"


def main() -> None:
    """Ends with code 1 where accelerate would raise, silently if the schedule knows more."""
    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger(_TALKATIVE).addFilter(lambda record: not has_told())
    try:
        launch()
    except (ChildFailedError, subprocess.CalledProcessError):
        if not has_told():
            raise
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
