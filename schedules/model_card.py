"""The model card of a schedule's `final/`: what was done, what was chosen and why, what was measured, how to use it.

    python -m schedules.model_card --run outputs/r1_distill_qwen_1.5b --single outputs/single/summary.json

schedules/run.py writes the card when the schedule ends and at every later start; this command writes it anew with
figures of eval/single.py and eval/combined.py, which the card then keeps. A push_to_hub run that is started again
sends the new card.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from pathlib import Path

from rich.markup import escape

from schedules.card.content import card_context, card_name, front_matter
from schedules.card.measured import Measured, Models, find_measurements, read_combined, read_single, remember
from schedules.config import RunConfig, finished_config
from schedules.state import RunFolder
from secateur.runtime.cards import describe_base, render_card, write_card
from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import say
from secateur.runtime.files import copy_file
from secateur.runtime.hub import RECORD, Target, read_pushed
from secateur.runtime.process import entry_point

TEMPLATE = Path(__file__).parent / "card" / "templates" / "model_card.md"
PICTURE = "rounds.png"
_LIBRARIES = ("secateur", "trl", "transformers", "torch", "accelerate", "deepspeed", "vllm")


def write_model_card(config: RunConfig, target: Target | None = None) -> bool:
    """Write the README.md of the run's `final/`, with the base model's licence files and the picture of the rounds
    beside it; whether the card changed.

    target: where `final/` is pushed to; by default where it was, else the snippets name the folder.
    """
    run = RunFolder(config)
    final, selections = run.path / "final", run.selections()
    target = target or _pushed_to(run.path)
    repo_id, revision = (target.repo_id, target.revision) if target else (None, None)
    memory = remember(run.path, Measured(), _LIBRARIES)
    found = find_measurements(run.path, Models(final, config.schedule.model, repo_id))
    measured = Measured(memory.single or found.single, memory.combined or found.combined)
    base = describe_base(config.schedule.model)
    for path in (*base.files, run.path / PICTURE):
        if path.is_file():
            copy_file(path, final / path.name)
    context = card_context(config, base, selections, measured, memory.versions, repo_id, revision)
    data = front_matter(config, base, card_name(config, repo_id), selections[-1][1].chosen, measured)
    return write_card(final, render_card(TEMPLATE, data, context))


def _pushed_to(run: Path) -> Target | None:
    pushed = read_pushed(run / RECORD)
    return Target(pushed.repo_id, revision=pushed.revision) if pushed else None


@entry_point
def main() -> None:
    parser = OneLineParser()
    parser.add_argument("--run", required=True, type=Path, help="run folder of a schedule that has ended")
    parser.add_argument("--single", type=Path, help="summary.json of eval/single.py that measures the final model")
    parser.add_argument("--combined", type=Path, help="combined.json of eval/combined.py that measures it")
    parser.add_argument("--model", help="name of the final model in those files, if its path tells nothing")
    options = parser.parse_args()
    config = finished_config(options.run)
    target = _pushed_to(options.run)
    repo_id = target.repo_id if target else None
    models = Models(options.run / "final", config.schedule.model, repo_id, options.model)
    told = Measured(
        read_single(options.single, models) if options.single else None,
        read_combined(options.combined, models) if options.combined else None,
    )
    remember(options.run, told, _LIBRARIES)
    changed = write_model_card(config)
    card = escape(str(options.run / "final" / "README.md"))
    say(f"model card: {card}" + ("" if changed else " (as it was)"))


if __name__ == "__main__":
    main()
