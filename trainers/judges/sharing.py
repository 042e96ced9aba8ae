"""A judge for others: its model card, and its way to the Hub."""

from pathlib import Path

from rich.markup import escape

from secateur.deepprune.judges.card import PUSHED, write_judge_card
from secateur.runtime.console import say
from secateur.runtime.files import read_json
from secateur.runtime.hub import RECORD, Target, check_push, push_once
from secateur.runtime.ranks import current_ranks
from trainers.judges.config import JudgeConfig


def hub_target(config: JudgeConfig) -> Target | None:
    """Where the judge is pushed to, None if nowhere. Raises `HubError` before work begins if it may not be."""
    if not config.push_to_hub or not current_ranks().is_main:
        return None
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    return check_push(Target(name, config.hub_private_repo))


def share_judge(folder: Path, target: Target | None) -> None:
    """Write the card of a finished judge, and push the judge unless this very content lies there already.

    Raises `HubError` if the push fails; the next start tries it again.
    """
    if not current_ranks().is_main:
        return
    write_judge_card(folder, target.repo_id if target else _pushed_to(folder))
    if target is None:
        return
    url, pushed = push_once(folder, folder / RECORD, target, patterns=PUSHED, message="A judge for DeepPrune")
    say(f"  {'pushed to' if pushed else 'is on the Hub:'} {escape(url)}")


def _pushed_to(folder: Path) -> str | None:
    return read_json(folder / RECORD)["repo_id"] if (folder / RECORD).is_file() else None
