"""The judges that an evaluation names: a kind that needs no training, a folder, or an id on the Hub."""

from functools import lru_cache
from pathlib import Path

from secateur.deepprune.judges.folder import find_judge
from secateur.deepprune.judges.kind import JudgeKind
from secateur.deepprune.judges.record import JUDGE_FILE, read_judge
from secateur.deepprune.judges.registry import JUDGE_KINDS, UNTRAINED, stored_kind
from secateur.runtime.errors import InputError
from secateur.runtime.hub import is_hub_id


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
    return kind_of(name).name


def kind_of(name: str) -> JudgeKind:
    """The kind of a judge. Raises `InputError` for a folder whose judge.json is missing or names no kind."""
    if name in UNTRAINED:
        return JUDGE_KINDS[name]
    folder = judge_folder(name)
    return stored_kind(read_judge(folder).kind, folder)


def check_judge(key: str, name: str, states: bool) -> None:
    """Raise `InputError` unless `name`, the value of `key`, is a judge; `states`: whether the engine hands out hidden
    states."""
    try:
        found = name in UNTRAINED or (judge_folder(name) / JUDGE_FILE).is_file()
    except InputError as error:
        raise InputError(f"key '{key}' has the value '{name}': {error}") from None
    if not found:
        raise InputError(
            f"key '{key}' has the value '{name}': no judge.json there; train one with trainers/judge.py, name one on "
            f"the Hub (user/judge), or choose from {', '.join(UNTRAINED)}"
        )
    if not states and kind_of(name).reads_states:
        raise InputError(
            f"key '{key}' names a judge of the model's own states, which engine 'openai' cannot hand out; give a "
            "judge of kind linear or pairwise, or another engine"
        )
