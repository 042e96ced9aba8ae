"""What the libraries say that is not the user's to act on."""

import logging
import os
import warnings

import transformers


def silence_libraries() -> None:
    """Their notes about experimental features and defaults are not the user's to act on; errors still come."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
