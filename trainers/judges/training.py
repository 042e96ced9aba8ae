"""How a judge comes about: trained from scratch or from a language model, or a model taken as it is; the trained
baseline beside it; and what accompanies a training: trackers and the way to the Hub.
"""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import DistributedType
from rich.markup import escape

from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.card import PUSHED, write_judge_card
from secateur.deepprune.judges.folder import describe_generator, load_judge, save_judge
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem, all_labels
from secateur.deepprune.judges.record import JUDGE_FILE, METRICS_FILE, JudgeOrigin, TrainingFigures
from secateur.engines.finite import check_start
from secateur.runtime.console import MetricLog, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json
from secateur.runtime.hub import RECORD, Target, check_push, push_once
from secateur.runtime.process import current_ranks
from secateur.runtime.tensorboard import FOLDER, forget_after
from secateur.runtime.tracking import first_line, home_of, run_options, usable_report_to
from trainers.judges.config import JudgeConfig
from trainers.judges.fit import Fit, FitSettings, minority_label
from trainers.judges.trainee import Trainee, build_ngram, build_trainee


def make_judge(config: JudgeConfig, data: JudgeData, accelerator: Accelerator) -> tuple[Judge, TrainingFigures]:
    """The judge that the config asks for, saved in `best/` of its folder, and how it came about."""
    return (_train if config.epochs else _take_as_it_is)(config, data, accelerator)


def check_precision(config: JudgeConfig, accelerator: Accelerator) -> None:
    """Weights in bfloat16 lose the small steps of a fine-tune, unless a copy in float32 takes them."""
    keeps_copy = accelerator.distributed_type == DistributedType.DEEPSPEED
    if config.epochs and config.dtype == "bfloat16" and not config.lora_rank and not keeps_copy:
        raise InputError(
            "key 'dtype' has the value bfloat16: full fine-tuning needs weights in float32; launch with DeepSpeed "
            "(configs/accelerate/zero2.yaml), which keeps them, set 'lora_rank', or leave 'dtype' out"
        )


def fit_settings(config: JudgeConfig, data: JudgeData) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        items_per_step=config.items_per_step,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=config.warmup_share,
        evaluations=config.evaluations,
        gamma=config.focal_gamma,
        alpha=config.focal_alpha,
        minority=minority_label(torch.from_numpy(all_labels(data.train))),
        minority_factor=config.minority_factor,
        seed=config.seed,
        items_per_forward=config.items_per_forward,
    )


def _train(config: JudgeConfig, data: JudgeData, accelerator: Accelerator) -> tuple[Judge, TrainingFigures]:
    """The judge with the best development score."""
    folder, trainee, start = Path(config.output_dir), build_trainee(config, data), time.process_time()
    check_start(trainee.module, config.model, "key 'dtype'")
    trainee.module.to(accelerator.device)
    origin = _origin(config, data)
    fit = Fit(
        module=trainee.module,
        items=trainee.items,
        labels_of=trainee.labels_of,
        dev_score=trainee.dev_score,
        keep_best=lambda: _replace_judge(trainee.judge, folder / "best", origin),
        settings=fit_settings(config, data),
        log=MetricLog(folder / LOG_FILE),
        title=f"judge {config.kind}",
        track=lambda values, step: accelerator.log(values, step=step),
        # A judge without a language model is tiny: dealing it out costs more than it saves.
        accelerator=None if config.judge_kind.language_model is None else accelerator,
        checkpoint=folder / "checkpoint",
    )
    result = fit.run()
    accelerator.wait_for_everyone()
    training = TrainingFigures(
        best_dev_auroc=result.best,
        best_step=result.best_step,
        steps=result.steps,
        cpu_s=round(time.process_time() - start, 1),
        train_problems=len(data.train),
        train_pairs=sum(len(problem.pairs) for problem in data.train),
        dev_problems=len(data.dev),
        sources=data.sources,
    )
    return load_judge(folder / "best", device=accelerator.device), training


def _origin(config: JudgeConfig, data: JudgeData) -> JudgeOrigin:
    if config.judge_kind.reads_states:
        return JudgeOrigin(generator=describe_generator(config.model), **dataclasses.asdict(data.prompt))
    return JudgeOrigin(trained_from=config.model, dtype=config.dtype, **dataclasses.asdict(data.prompt))


def _take_as_it_is(config: JudgeConfig, data: JudgeData, accelerator: Accelerator) -> tuple[Judge, TrainingFigures]:
    """A judge without training: a public one, a zero-shot model, a sentence encoder. Its folder names the model."""
    judge = config.judge_kind.as_it_is(config, data, accelerator.device)
    origin = JudgeOrigin(dtype=config.dtype, **dataclasses.asdict(data.prompt))
    _replace_judge(judge, Path(config.output_dir) / "best", origin)
    accelerator.wait_for_everyone()
    return judge, TrainingFigures(steps=0, dev_problems=len(data.dev), sources=data.sources)


def train_ngram(config: JudgeConfig, data: JudgeData) -> Trainee[LabelledProblem]:
    """The n-gram baseline, trained as the judge is and at its own best development score."""
    trainee = build_ngram(config, data)
    best: dict[str, torch.Tensor] = {}
    fit = Fit(
        module=trainee.module,
        items=trainee.items,
        labels_of=trainee.labels_of,
        dev_score=trainee.dev_score,
        keep_best=lambda: best.update({key: value.clone() for key, value in trainee.module.state_dict().items()}),
        settings=dataclasses.replace(fit_settings(config, data), **NGRAM_TRAINING, items_per_forward=None),
        log=MetricLog(Path(config.output_dir) / LOG_FILE),
        title="n-gram baseline",
    )
    fit.run()
    trainee.module.load_state_dict(best)
    return trainee


def _replace_judge(judge: Judge, folder: Path, origin: JudgeOrigin) -> None:
    if not current_ranks().is_main:
        return
    fresh = _fresh(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    save_judge(judge, fresh, origin)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _fresh(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def publish(folder: Path) -> None:
    """Turn `best/` into the judge folder itself. It holds everything by now, metrics.json too, which says that all is
    finished and comes last. From the first rename on, a kill costs nothing: see `finish_publishing`."""
    (folder / "best").rename(folder / PUBLISHING)
    finish_publishing(folder)


def finish_publishing(folder: Path) -> None:
    """Go on with what a kill has interrupted: a judge that was being published, or one that was being replaced by a
    better one."""
    best, fresh = folder / "best", _fresh(folder / "best")
    if (fresh / JUDGE_FILE).is_file() and not best.exists():
        fresh.rename(best)
    if not (folder / PUBLISHING).is_dir():
        return
    for entry in sorted((folder / PUBLISHING).iterdir(), key=lambda entry: entry.name == METRICS_FILE):
        if entry.is_dir():
            shutil.rmtree(folder / entry.name, ignore_errors=True)
        if entry.name == METRICS_FILE:
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        entry.replace(folder / entry.name)
    (folder / PUBLISHING).rmdir()


def start_trackers(
    accelerator: Accelerator,
    report_to: str | Sequence[str],
    folder: Path,
    kind: str,
    models: Sequence[str],
    config: Mapping[str, JSON],
    resumed_at: int = 0,
) -> None:
    """Let `accelerator.log` of the main process reach the services that can be used: the W&B run `kind` of `folder`
    in the group that `home_of(models, folder)` says, and event files in `folder/tensorboard`.

    Both go on as one where a training does; `resumed_at` is the step that this start goes on from. A failure of a
    service is said and ends nothing. Raises `InputError` as `usable_report_to` does.
    """
    if not accelerator.is_main_process:
        return
    for service in usable_report_to(report_to):
        try:
            tracker = _tracker(service, folder, kind, models, config, resumed_at)
            tracker.start()
        except Exception as error:  # several kinds, not all of them W&B's own; the figures are on disk anyway
            say(f"{service}: nothing is logged there ({escape(first_line(error))})")
        else:
            accelerator.trackers.append(tracker)


def _tracker(
    service: str, folder: Path, kind: str, models: Sequence[str], config: Mapping[str, JSON], resumed_at: int
) -> GeneralTracker:
    if service == "tensorboard":
        forget_after(folder / FOLDER, resumed_at)
        return TensorBoardTracker("", folder / FOLDER)
    home = home_of(models, folder)
    return WandBTracker(home.project, **run_options(folder, kind, home, config))


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


LOG_FILE, PUBLISHING = "train.jsonl", "publishing"
NGRAM_TRAINING = {"epochs": 20.0, "items_per_step": 4, "learning_rate": 1e-2}  # enough for it to peak on the dev set
