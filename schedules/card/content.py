"""What a model card says, gathered from the files of a run; schedules/card/templates/model_card.md says it in
words."""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rewards.registry import find_reward
from schedules.choice import START, name_of
from schedules.config import RunConfig, ScheduleConfig
from schedules.rounds import Round
from secateur.runtime.base_model import BaseModel
from secateur.runtime.cards import Markdown, clean, code_span, escape_markdown
from secateur.runtime.config import without_secrets
from secateur.runtime.files import read_json
from secateur.tasks.prompts import evaluation_messages

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_SHOWN = (
    *("learning_rate", "num_generations", "temperature", "loss_type", "beta", "per_device_train_batch_size"),
    *("gradient_accumulation_steps",),
)
_HUB_SET = re.compile(r"^(?P<repository>[\w.-]+/[\w.-]+) \(")
_EMBEDDED = "arithmetic"  # problems of the game that the project ships (secateur/tasks/arithmetic.py)

Selections = Sequence[tuple[Round, dict[str, Any]]]


def card_context(
    config: RunConfig,
    base: BaseModel,
    selections: Selections,
    measured: Mapping[str, Any],
    versions: Mapping[str, str],
    repo_id: str | None,
    revision: str | None = None,
) -> dict[str, Any]:
    """All values of the template."""
    schedule, folder = config.schedule, Path(config.schedule.output_dir)
    rounds = [_round(round_, record) for round_, record in selections]
    first = next(entry for entry in rounds[0]["candidates"] if entry["step"] == START)
    return {
        "name": (repo_id or folder.resolve().name).split("/")[-1],
        "base": Markdown(code_span(base.name)) if not base.is_itself else _link(base.name),
        "rounds": rounds,
        "first": first,
        "last": rounds[-1]["chosen"],
        "change": _change(first, rounds[-1]["chosen"]),
        "unmet": _unmet(rounds),
        "single": measured.get("single"),
        "combined": measured.get("combined"),
        "called": _called((measured.get("combined") or {}).get("called", {})),
        "versions": versions,
        "licence": _licence(base),
        "picture": "rounds.png" if (folder / "rounds.png").is_file() else None,
        **_usage(schedule, repo_id or str(folder / "final"), revision),
        **_training(config, folder),
        **_validation(schedule, selections, folder),
    }


def _called(names: Mapping[str, bool]) -> Markdown:
    """What the advice calls the models, as its table does; figures told to older cards do not say."""
    words = [f"{code_span(name)} is {'this model' if ours else 'the original one'}" for name, ours in names.items()]
    return Markdown(f"In what follows {', '.join(words)}." if words else "")


def _link(hub_id: str) -> Markdown:
    return Markdown(f"[{escape_markdown(hub_id)}](https://huggingface.co/{hub_id})")


def _round(round_: Round, record: Mapping[str, Any]) -> dict[str, Any]:
    step = record["chosen_step"]
    unknown = {"pass_at_1_ci95": None, "mean_tokens_ci95": None}  # in older runs
    candidates = [unknown | entry | _named(entry["step"], step) for entry in record["candidates"]]
    return {
        "index": round_.index,
        "limit": round_.limit,
        "candidates": candidates,
        "chosen": next(entry for entry in candidates if entry["chosen"]),
        "chosen_name": "the start model stays" if step == START else name_of(step),
        "reason": record["reason"],
    }


def _named(step: int, chosen: int) -> dict[str, Any]:
    return {"name": "start" if step == START else name_of(step), "chosen": step == chosen}


def _change(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    return f"{last['mean_tokens'] / first['mean_tokens'] - 1:+.1%}" if first["mean_tokens"] else ""


def _unmet(rounds: Sequence[Mapping[str, Any]]) -> str:
    unmet = [round_ for round_ in rounds if round_["chosen"]["step"] == START]
    if not unmet:
        return ""
    return f"The limit of {unmet[-1]['limit']} tokens could not be met: no checkpoint of that round was taken."


def _usage(schedule: ScheduleConfig, model_name: str, revision: str | None) -> dict[str, Any]:
    """The snippets' values; the length of vLLM's context is what the model allows and the evaluation needs."""
    final = Path(schedule.output_dir) / "final" / "config.json"
    allowed = read_json(final).get("max_position_embeddings") or float("inf")
    length = int(min(allowed, schedule.max_prompt_tokens + schedule.validation_max_tokens))
    suffix, arithmetic = _suffix(schedule.prompt_family), _is_arithmetic(schedule)
    branch = ["--revision", revision] if revision else []
    return {
        "family": schedule.prompt_family,
        "suffix": suffix,
        "suffix_literal": Markdown(json.dumps(suffix)),
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


def _suffix(family: str) -> str:
    """What follows the problem in the prompts of validation and evaluation."""
    return evaluation_messages("", family)[-1]["content"]


def _is_arithmetic(schedule: ScheduleConfig) -> bool:
    return schedule.problems.startswith(f"{_EMBEDDED}:")


def _training(config: RunConfig, folder: Path) -> dict[str, Any]:
    schedule = config.schedule
    data = read_json(folder / "data.json") if (folder / "data.json").is_file() else {}
    kept = f", {data['kept']:,} of {data['loaded']:,} kept" if "kept" in data else ""
    cleaned = f"; free of {', '.join(schedule.decontaminate)}" if schedule.decontaminate else ""
    options = ", ".join(f"{key} = {value}" for key, value in schedule.reward_options.items())
    return {
        "reward": f"{schedule.reward}{f' ({options})' if options else ''}",
        "reward_words": find_reward(schedule.reward).words,
        "limits": ", ".join(f"{limit:,}" for limit in schedule.limits),
        "steps": schedule.steps_per_round,
        "training": f"{schedule.problems}{kept}{cleaned}",
        "trainer": {key: config.trainer[key] for key in _SHOWN if key in config.trainer},
        "seed": schedule.seed,
        "settings": yaml.safe_dump(without_secrets(_shown_keys(config)), sort_keys=False, allow_unicode=True),
        "parameters": _parameters(folder / "final"),
    }


def _shown_keys(config: RunConfig) -> dict[str, Any]:
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


def _validation(schedule: ScheduleConfig, selections: Selections, folder: Path) -> dict[str, Any]:
    record = selections[-1][1]
    counted = read_json(folder / "rounds" / selections[0][0].name / "validation.json")["candidates"][0]
    problems = counted.get("problems") or len(counted["per_problem"])
    sampling = f"temperature {schedule.validation_temperature}, top-p {schedule.validation_top_p}"
    share, reference = 1 - record["tolerance"], schedule.tolerance_reference.replace("_", " ")
    return {
        "validation": f"{schedule.validation_problems}, {problems} problems × {schedule.validation_samples} samples, "
        f"{sampling}, at most {schedule.validation_max_tokens:,} tokens",
        "validation_source": schedule.validation_problems,
        "problems": problems,
        "competition": bool(re.search(r"aime|amc|olympiad|math", schedule.validation_problems, re.IGNORECASE)),
        "tolerance_share": record["tolerance"],
        "tolerance": f"{record['tolerance']:g}: a checkpoint passes with at least {share:g} of the reference's "
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


def front_matter(config: RunConfig, base: BaseModel, context: Mapping[str, Any]) -> "ModelCardData":
    """The YAML part, as huggingface_hub writes it; what is not known is left out."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        model_name=clean(context["name"]),
        base_model=base.hub_id,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["secateur", "thinkprune", "trl", "grpo", "reasoning", "length-pruning"],
        datasets=_datasets(config) or None,
        metrics=["accuracy"],
        eval_results=_results(config, context),
        **base.licence,
    )


def _datasets(config: RunConfig) -> list[str]:
    """Repositories of the published sets among the training problems, as data.json says where they came from."""
    path = Path(config.schedule.output_dir) / "data.json"
    origins = read_json(path).get("origins", {}) if path.is_file() else {}
    used = (origins.get(name, "") for name in config.schedule.problems.split("+"))
    return list(dict.fromkeys(found["repository"] for origin in used if (found := _HUB_SET.match(origin))))


def _results(config: RunConfig, context: Mapping[str, Any]) -> list["EvalResult"]:
    schedule, last = config.schedule, context["last"]
    chosen_on = f"{schedule.validation_problems} (chosen on)"
    found = [_result(chosen_on, "pass@1", last["pass_at_1"]), _result(chosen_on, "mean tokens", last["mean_tokens"])]
    for row in (context["single"] or {"rows": ()})["rows"]:
        if row["ours"]:
            found.append(_result(row["benchmark"], "pass@1", row["pass_at_1"]))
            found.append(_result(row["benchmark"], "mean tokens", row["mean_tokens"]))
    for row in (context["combined"] or {"rows": ()})["rows"]:
        if row["ours"]:
            found.append(
                _result(f"{row['benchmark']}, {row['n']} traces", f"accuracy, {row['method']}", row["accuracy"])
            )
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
