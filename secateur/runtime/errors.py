"""Errors that are the user's to mend."""


class InputError(ValueError):
    """Bad input: the message names the file and line, or the key, the value and the remedy."""
