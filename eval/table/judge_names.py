"""The judges that an evaluation names: a kind that needs no training, a folder, or an id on the Hub."""

from functools import lru_cache
from pathlib import Path

from secateur.deepprune.judges.folder import find_judge
from secateur.deepprune.judges.untrained import UNTRAINED
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json
from secateur.runtime.hub import is_hub_id

READS_NOTHING = (*UNTRAINED, "linear_own_states")  # judges that spend no token of their own


def judge_folder(folder_or_id: str) -> Path:
    """Where a trained judge lies; one on the Hub is fetched, once per process. What begins with `outputs/` is a
    folder that is not there yet."""
    on_hub = is_hub_id(folder_or_id) and not folder_or_id.startswith("outputs/")
    return _fetched(folder_or_id) if on_hub else Path(folder_or_id)


@lru_cache
def _fetched(name: str) -> Path:
    return find_judge(name)


def judge_kind(name: str) -> str:
    """What a judge is called: an untrained one by its name, a trained one by its kind."""
    if name in UNTRAINED:
        return name
    return str(read_json(judge_folder(name) / "judge.json").get("kind", "judge"))


def check_judge(key: str, name: str, states: bool) -> None:
    """Raise `InputError` unless `name`, the value of `key`, is a judge; `states`: whether the engine hands out hidden
    states."""
    try:
        found = name in UNTRAINED or (judge_folder(name) / "judge.json").is_file()
    except InputError as error:
        raise InputError(f"key '{key}' has the value '{name}': {error}") from None
    if not found:
        raise InputError(
            f"key '{key}' has the value '{name}': no judge.json there; train one with trainers/judge.py, name one on "
            f"the Hub (user/judge), or choose from {', '.join(UNTRAINED)}"
        )
    if not states and judge_kind(name) == "linear_own_states":
        raise InputError(
            f"key '{key}' names a judge of the model's own states, which engine 'openai' cannot hand out; give a "
            "judge of kind linear or pairwise, or another engine"
        )
