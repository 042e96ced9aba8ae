"""What a command names as the next one, as a shell would take it."""

import shlex


def next_words(said: str, command: str) -> list[str]:
    """The words behind `secateur COMMAND` in a command or in all that a command said."""
    _, found, rest = said.partition(f"secateur {command} ")
    assert found, said
    return shlex.split(rest.replace("\\\n", " "))
