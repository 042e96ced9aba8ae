"""What a model card says, gathered from the files of a run; schedules/card/templates/model_card.md says it in
words."""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from rewards.registry import find_reward
from schedules.card.measured import Measured
from schedules.choice import START, Figures, name_of
from schedules.config import RunConfig, ScheduleConfig
from schedules.records import VALIDATION, SelectionRecord, WeighedCandidate, read_data, read_validation
from schedules.rounds import AUTO, Round
from secateur.runtime.cards import BaseModel, Markdown, clean, code_span, escape_markdown, exact_literal
from secateur.runtime.config import without_secrets
from secateur.runtime.files import JSON, read_json
from secateur.tasks.prompts import PROBLEM, Prompt, evaluation_messages

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_SHOWN = (
    *("learning_rate", "num_generations", "temperature", "loss_type", "beta", "per_device_train_batch_size"),
    *("gradient_accumulation_steps",),
)
_HUB_SET = re.compile(r"^(?P<repository>[\w.-]+/[\w.-]+) \(")
_EMBEDDED = "arithmetic"  # problems of the game that the project ships (secateur/tasks/arithmetic.py)

Selections = Sequence[tuple[Round, SelectionRecord]]


@dataclass(frozen=True)
class CandidateRow(WeighedCandidate):
    """A candidate of a round under the name that the card gives it; `chosen`: it is the round's choice."""

    name: str
    chosen: bool


@dataclass(frozen=True)
class RoundRows:
    """A round: its `limit` [tokens], its candidates, the start model first, and which was chosen and why."""

    index: int
    limit: int
    candidates: tuple[CandidateRow, ...]
    reason: str
    expands: bool

    @property
    def chosen(self) -> CandidateRow:
        return next(row for row in self.candidates if row.chosen)

    @property
    def chosen_name(self) -> str:
        return "the start model stays" if self.chosen.step == START else name_of(self.chosen.step)


def card_context(
    config: RunConfig,
    base: BaseModel,
    selections: Selections,
    measured: Measured,
    versions: Mapping[str, str],
    repo_id: str | None,
    revision: str | None = None,
) -> dict[str, object]:
    """All values of the template."""
    schedule, folder = config.schedule, Path(config.schedule.output_dir)
    rounds = [_round(round_, record) for round_, record in selections]
    first, last = selections[0][1].start, rounds[-1].chosen
    return {
        "name": card_name(config, repo_id),
        "base": Markdown(code_span(base.name)) if not base.is_itself else _link(base.name),
        "rounds": rounds,
        "first": first,
        "last": last,
        "change": _change(first, last),
        "unmet": _unmet(rounds),
        "single": measured.single,
        "combined": measured.combined,
        "called": _called(measured.combined.called if measured.combined else {}),
        "versions": versions,
        "licence": _licence(base),
        "picture": "rounds.png" if (folder / "rounds.png").is_file() else None,
        **_usage(schedule, repo_id or str(folder / "final"), revision),
        **_training(config, folder, rounds),
        **_validation(schedule, selections, folder),
    }


def card_name(config: RunConfig, repo_id: str | None) -> str:
    """The title of the card: the repository's name without its owner, else that of the run folder."""
    return (repo_id or Path(config.schedule.output_dir).resolve().name).split("/")[-1]


def _called(names: Mapping[str, bool]) -> Markdown:
    """What the advice calls the models, as its table does."""
    words = [f"{code_span(name)} is {'this model' if ours else 'the original one'}" for name, ours in names.items()]
    return Markdown(f"In what follows {', '.join(words)}." if words else "")


def _link(hub_id: str) -> Markdown:
    return Markdown(f"[{escape_markdown(hub_id)}](https://huggingface.co/{hub_id})")


def _round(round_: Round, record: SelectionRecord) -> RoundRows:
    rows = [
        CandidateRow(
            **vars(one),
            name="start" if one.step == START else name_of(one.step),
            chosen=one.step == record.chosen_step,
        )
        for one in record.candidates
    ]
    return RoundRows(round_.index, round_.limit, tuple(rows), record.reason, record.expands)


def _change(first: Figures, last: Figures) -> str:
    return f"{last.mean_tokens / first.mean_tokens - 1:+.1%}" if first.mean_tokens else ""


def _unmet(rounds: Sequence[RoundRows]) -> str:
    unmet = [round_ for round_ in rounds if round_.chosen.step == START and not round_.expands]
    if not unmet:
        return ""
    return f"The limit of {unmet[-1].limit} tokens could not be met: no checkpoint of that round was taken."


def _usage(schedule: ScheduleConfig, model_name: str, revision: str | None) -> dict[str, object]:
    """The snippets' values; the length of vLLM's context is what the model allows and the evaluation needs."""
    final = Path(schedule.output_dir) / "final" / "config.json"
    allowed = read_json(final).get("max_position_embeddings") or float("inf")
    length = int(min(allowed, schedule.max_prompt_tokens + schedule.validation_max_tokens))
    arithmetic = _is_arithmetic(schedule)
    branch = ["--revision", revision] if revision else []
    return {
        "family": schedule.prompt_family,
        "messages": _messages_literal(schedule.prompt),
        **_sentences(schedule.prompt),
        "example": "Rule oak. Start with 4. a-6 b#7 c-7." if arithmetic else "How many primes are below 100?",
        "temperature": schedule.validation_temperature,
        "top_p": schedule.validation_top_p,
        "max_tokens": schedule.validation_max_tokens,
        "model_name": model_name,
        "model_length": length,
        "revision": revision,
        "serve": shlex.join(["vllm", "serve", model_name, *branch, "--max-model-len", str(length)]),
        "arithmetic": arithmetic,
    }


def _messages_literal(prompt: Prompt) -> Markdown:
    """The messages of validation and evaluation as Python, with a variable `problem`."""
    entries = [
        f'{{"role": "{one["role"]}", "content": {_content_literal(one["content"])}}}'
        for one in evaluation_messages(PROBLEM, prompt)
    ]
    return Markdown(f"[{', '.join(entries)}]")


def _content_literal(content: str) -> str:
    before, found, after = content.partition(PROBLEM)
    parts = [exact_literal(before)] if before else []
    parts += ["problem"] if found else []
    return " + ".join([*parts, exact_literal(after)] if after else parts)


def _sentences(prompt: Prompt) -> dict[str, str]:
    """What stands around the problem: `system`, and in the user's turn what comes `before` and `after`."""
    *system, turn = (one["content"] for one in evaluation_messages(PROBLEM, prompt))
    before, _, after = turn.partition(PROBLEM)
    return {"system": "".join(system), "before": before.strip(), "after": after.strip()}


def _is_arithmetic(schedule: ScheduleConfig) -> bool:
    return schedule.problems.startswith(f"{_EMBEDDED}:")


def _training(config: RunConfig, folder: Path, rounds: Sequence[RoundRows]) -> dict[str, object]:
    schedule, data = config.schedule, read_data(folder)
    kept = f", {data.kept:,} of {data.loaded:,} kept"
    cleaned = f"; free of {', '.join(schedule.decontaminate)}" if schedule.decontaminate else ""
    options = ", ".join(f"{key} = {value}" for key, value in schedule.reward_options.items())
    return {
        "reward": f"{schedule.reward}{f' ({options})' if options else ''}",
        "reward_words": find_reward(schedule.reward).words,
        "limits": _limits(schedule, rounds),
        "auto_limits": _auto_limits(schedule),
        "expands": any(round_.expands for round_ in rounds),
        "steps": schedule.steps_per_round,
        "training": f"{schedule.problems}{kept}{cleaned}",
        "trainer": {key: config.trainer[key] for key in _SHOWN if key in config.trainer},
        "seed": schedule.seed,
        "settings": yaml.safe_dump(without_secrets(_shown_keys(config)), sort_keys=False, allow_unicode=True),
        "parameters": _parameters(folder / "final"),
    }


def _limits(schedule: ScheduleConfig, rounds: Sequence[RoundRows]) -> str:
    """Of all rounds; of an auto one what was drawn, nothing where the schedule ended before it."""
    limits = dict(enumerate(schedule.limits, start=1)) | {round_.index: round_.limit for round_ in rounds}
    return ", ".join(f"{limit:,}" for limit in limits.values() if limit != AUTO)


def _auto_limits(schedule: ScheduleConfig) -> str:
    if AUTO not in schedule.limits:
        return ""
    return (
        f"the {schedule.auto_quantile:g} quantile of the lengths that the model of the round before "
        f"had in validation, at least {schedule.auto_floor:,} tokens"
    )


def _shown_keys(config: RunConfig) -> dict[str, JSON]:
    """All keys but those that say where things lie or are sent."""
    left_out = ("output_dir", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "dry_run")
    return {key: value for key, value in config.resolved().items() if key not in left_out}


def _parameters(final: Path) -> str:
    """Counted from the shapes that the weight files begin with."""
    count = 0
    for path in final.glob("*.safetensors"):
        with open(path, "rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return f"{count:,} parameters"


def _validation(schedule: ScheduleConfig, selections: Selections, folder: Path) -> dict[str, object]:
    tolerance = selections[-1][1].tolerance
    problems = read_validation(folder / "rounds" / selections[0][0].name / VALIDATION).candidates[0].problems
    sampling = f"temperature {schedule.validation_temperature}, top-p {schedule.validation_top_p}"
    share, reference = 1 - tolerance, schedule.tolerance_reference.replace("_", " ")
    return {
        "validation": f"{schedule.validation_problems}, {problems} problems × {schedule.validation_samples} samples, "
        f"{sampling}, at most {schedule.validation_max_tokens:,} tokens",
        "validation_source": schedule.validation_problems,
        "raced": schedule.racing_confidence,
        "problems": problems,
        "competition": bool(re.search(r"aime|amc|olympiad|math", schedule.validation_problems, re.IGNORECASE)),
        "tolerance_share": tolerance,
        "tolerance": f"{tolerance:g}: a checkpoint passes with at least {share:g} of the reference's "
        f"pass@1 (reference: {reference})",
    }


def _licence(base: BaseModel) -> Markdown:
    name = code_span(base.name)
    if not base.licence:
        return Markdown(
            f"Not set: {escape_markdown(base.source)}. The licence of {name} holds for this model as well; look it "
            "up before you use or share it."
        )
    known = code_span(base.licence.get("license_name") or base.licence["license"])
    files = ", ".join(code_span(path.name) for path in base.files)
    texts = f" Its text lies here: {files}." if files else ""
    return Markdown(f"{known}, carried over from {name} as {escape_markdown(base.source)} says.{texts}")


def front_matter(config: RunConfig, base: BaseModel, name: str, last: Figures, measured: Measured) -> "ModelCardData":
    """The YAML part, as huggingface_hub writes it; what is not known is left out."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        model_name=clean(name),
        base_model=base.hub_id,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["secateur", "thinkprune", "trl", "grpo", "reasoning", "length-pruning"],
        datasets=_datasets(config) or None,
        metrics=["accuracy"],
        eval_results=_results(config.schedule, last, measured),
        **base.licence,
    )


def _datasets(config: RunConfig) -> list[str]:
    """Repositories of the published sets among the training problems, as data.json says where they came from."""
    origins = read_data(Path(config.schedule.output_dir)).origins
    used = (origins.get(name, "") for name in config.schedule.problems.split("+"))
    return list(dict.fromkeys(found["repository"] for origin in used if (found := _HUB_SET.match(origin))))


def _results(schedule: ScheduleConfig, last: Figures, measured: Measured) -> list["EvalResult"]:
    chosen_on = f"{schedule.validation_problems} (chosen on)"
    found = [_result(chosen_on, "pass@1", last.pass_at_1), _result(chosen_on, "mean tokens", last.mean_tokens)]
    for row in measured.single.rows if measured.single else ():
        if row.ours:
            found.append(_result(row.benchmark, "pass@1", row.pass_at_1))
            found.append(_result(row.benchmark, "mean tokens", row.mean_tokens))
    for row in measured.combined.rows if measured.combined else ():
        if row.ours:
            found.append(_result(f"{row.benchmark}, {row.n} traces", f"accuracy, {row.method}", row.accuracy))
    return found


def _result(dataset: str, metric: str, value: float) -> "EvalResult":
    from huggingface_hub import EvalResult

    kind = "mean_tokens" if metric == "mean tokens" else "accuracy"
    return EvalResult(
        task_type="text-generation",
        dataset_type=clean(dataset).split(" ")[0].rstrip(","),
        dataset_name=clean(dataset),
        metric_type=kind,
        metric_name=clean(metric),
        metric_value=round(value, 4),
    )
