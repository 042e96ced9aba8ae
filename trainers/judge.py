"""Train a judge: will two unfinished traces of one problem end in the same answer?

    python trainers/judge.py --config configs/demo/judge_own_states.yaml
    accelerate launch --config_file configs/accelerate/zero2.yaml trainers/judge.py --config configs/judge/X.yaml

DeepPrune (arXiv 2510.08483) trains a causal LM on pairs of cuts with focal loss and the rarer label counted twice:
`kind: pairwise`. Ours besides: `linear` (an encoder that reads every cut once) and `linear_own_states` (the
generator's own hidden states, nothing is read again), with the same data and loss. Full fine-tune or LoRA
(configs/judge/pairwise_4b_lora.yaml). With `epochs: 0` a model is taken as it is: a public judge or an instruct model
(configs/judge/public_4b.yaml), a sentence encoder (configs/judge/embedding.yaml).

The checkpoint is chosen and the probabilities are calibrated on development problems, all figures come from test
problems; the three never share a problem. metrics.json holds every figure over all pairs and over those of unfinished
cuts (`unfinished`, the headline), per test folder where there are several (`models`), with baselines beside them.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from rich.markup import escape

from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.embedding import EmbeddingJudge
from secateur.deepprune.judges.folder import describe_generator, load_judge, save_judge, store_calibration
from secateur.deepprune.judges.losses import minority_label
from secateur.deepprune.judges.pairs import JudgedProblem, all_labels
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.console import MetricLog, say, silence_libraries, use_one_torch_thread
from secateur.runtime.dry_run import without_plan_keys
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json, write_text
from secateur.runtime.process import entry_point
from secateur.runtime.ranks import current_ranks
from secateur.runtime.versions import library_versions
from trainers.dry_run.judge import plan_judge
from trainers.judges.config import FREE_KEYS, JudgeConfig
from trainers.judges.data import JudgeData, load_judge_data
from trainers.judges.figures import baseline_figures, calibrated, figure_rows, test_figures
from trainers.judges.fit import Fit, FitSettings, steps_done
from trainers.judges.kinds import Trainee, build_ngram, build_trainee, thin_pairs, untouched_pairwise
from trainers.judges.sharing import hub_target, share_judge
from trainers.judges.trackers import start_trackers

_LIBRARIES = ("secateur", "torch", "transformers", "peft", "sentence-transformers")
NGRAM_TRAINING = {"epochs": 20.0, "items_per_step": 4, "learning_rate": 1e-2}  # enough for it to peak on the dev set


def is_finished(config: JudgeConfig) -> bool:
    """Whether this very run has finished in its output folder; `InputError` if another one began there."""
    folder = Path(config.output_dir)
    if not (folder / "config.yaml").is_file():
        return False
    stored, values = read_yaml(folder / "config.yaml"), _as_yaml(config)
    for key in sorted((values.keys() | stored.keys()) - FREE_KEYS):
        if stored.get(key) != values.get(key):
            raise InputError(
                f"{folder} holds a judge with {key} = {stored.get(key)!r}, this run has {values.get(key)!r}; "
                "give another 'output_dir', or delete the folder to train anew"
            )
    return (folder / "metrics.json").is_file()


def _as_yaml(config: JudgeConfig) -> dict[str, Any]:
    return without_plan_keys(dataclasses.asdict(config)) | {"labels": list(config.labels)}


def fit_settings(config: JudgeConfig, data: JudgeData) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        items_per_step=config.pairs_per_step if config.kind == "pairwise" else config.problems_per_step,
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


def train(config: JudgeConfig, data: JudgeData, accelerator: Accelerator) -> tuple[Judge, dict[str, Any]]:
    """Train and return the judge with the best development score, and what the training was."""
    folder, trainee, start = Path(config.output_dir), build_trainee(config, data), time.process_time()
    trainee.module.to(accelerator.device)
    if config.kind == "linear_own_states":
        about: dict[str, Any] = {"generator": describe_generator(config.model)}
    else:
        about = {"trained_from": config.model, "dtype": config.dtype}
    about["prompt_family"] = data.prompt_family
    fit = Fit(
        module=trainee.module,
        items=trainee.items,
        labels_of=trainee.labels_of,
        dev_score=trainee.dev_score,
        keep_best=lambda: _replace_judge(trainee.judge, folder / "best", about),
        settings=fit_settings(config, data),
        log=MetricLog(folder / "train.jsonl"),
        title=f"judge {config.kind}",
        track=lambda values, step: accelerator.log(values, step=step),
        # The pool and head of an own-state judge are tiny: dealing them out costs more than it saves.
        accelerator=None if config.kind == "linear_own_states" else accelerator,
        checkpoint=folder / "checkpoint",
    )
    result = fit.run()
    accelerator.wait_for_everyone()
    training = {
        "best_dev_auroc": result.best,
        "best_step": result.best_step,
        "steps": result.steps,
        "cpu_s": round(time.process_time() - start, 1),
        "train_problems": len(data.train),
        "train_pairs": sum(len(problem.pairs) for problem in data.train),
        "dev_problems": len(data.dev),
    }
    return load_judge(folder / "best", device=accelerator.device), training


def check_precision(config: JudgeConfig, accelerator: Accelerator) -> None:
    """Weights in bfloat16 lose the small steps of a fine-tune, unless a copy in float32 takes them."""
    keeps_copy = accelerator.distributed_type == DistributedType.DEEPSPEED
    if config.epochs and config.dtype == "bfloat16" and not config.lora_rank and not keeps_copy:
        raise InputError(
            "key 'dtype' has the value bfloat16: full fine-tuning needs weights in float32; launch with DeepSpeed "
            "(configs/accelerate/zero2.yaml), which keeps them, set 'lora_rank', or leave 'dtype' out"
        )


def take_as_it_is(config: JudgeConfig, data: JudgeData, accelerator: Accelerator) -> tuple[Judge, dict[str, Any]]:
    """A judge without training: a public one, a zero-shot model, a sentence encoder. Its folder names the model."""
    if config.kind == "embedding":
        judge: Judge = EmbeddingJudge(config.model, data.cut_rule, accelerator.device)
    else:
        judge = untouched_pairwise(config, data, accelerator.device)
        judge.source = config.model
    about = {"dtype": config.dtype, "prompt_family": data.prompt_family}
    _replace_judge(judge, Path(config.output_dir) / "best", about)
    accelerator.wait_for_everyone()
    return judge, {"steps": 0, "dev_problems": len(data.dev)}


def train_ngram(config: JudgeConfig, data: JudgeData) -> Trainee:
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
        log=MetricLog(Path(config.output_dir) / "train.jsonl"),
        title="n-gram baseline",
    )
    fit.run()
    trainee.module.load_state_dict(best)
    return trainee


def _replace_judge(judge: Judge, folder: Path, about: dict[str, Any]) -> None:
    if not current_ranks().is_main:
        return
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    save_judge(judge, fresh, about)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def run(config: JudgeConfig) -> None:
    folder, finished = Path(config.output_dir), is_finished(config)
    target = hub_target(config)
    if finished:
        say(f"judge: {escape(str(folder))} is finished, nothing to train")
        share_judge(folder, target)
        return
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    check_precision(config, accelerator)
    set_seed(config.seed)
    data = load_judge_data(config)
    if accelerator.is_main_process:  # only now: input that does not fit leaves no folder behind
        write_text(folder / "config.yaml", yaml.safe_dump(_as_yaml(config), sort_keys=False, allow_unicode=True))
    resumed_at = steps_done(folder / "checkpoint")
    start_trackers(accelerator, config.report_to, folder, "judge", [config.model], _as_yaml(config), resumed_at)
    judge, training = (train if config.epochs else take_as_it_is)(config, data, accelerator)
    calibration = calibrated(judge, data, config)
    tests = {name: _test_problems(problems, config) for name, problems in data.tests.items()}
    models = {name: test_figures(judge, data, problems) for name, problems in tests.items()}
    name, problems = next(iter(tests.items()))
    figures = dict(models[name])
    figures["baselines"] = baseline_figures(
        train_ngram(config, data) if config.epochs else None, data, problems, config
    )
    if config.kind == "pairwise" and config.epochs:
        zero_shot = untouched_pairwise(config, data, accelerator.device)
        calibrated(zero_shot, data, config)
        figures["baselines"]["zero_shot"] = test_figures(zero_shot, data, problems)
    if len(models) > 1:
        figures["models"] = models
    accelerator.log({f"test/{key}": figures[key] for key in ("auroc", "tnr_at_fnr20")})
    accelerator.log({f"test/unfinished_{key}": figures["unfinished"][key] for key in ("auroc", "tnr_at_fnr20")})
    accelerator.end_training()
    if accelerator.is_main_process:
        store_calibration(folder / "best", calibration)
        training |= {"sources": data.sources}
        about = {"training": training, "config": _as_yaml(config), "versions": library_versions(_LIBRARIES)}
        publish(folder, {"kind": config.kind} | figures | about)
    say(f"judge {config.kind}: {escape(str(folder))}")
    for row in figure_rows(models, figures["baselines"]):
        say(f"  {escape(row)}")
    share_judge(folder, target)


def _test_problems(problems: list[JudgedProblem], config: JudgeConfig) -> list[JudgedProblem]:
    return thin_pairs(problems, config.test_pairs, config.seed) if config.kind == "pairwise" else problems


def publish(folder: Path, metrics: dict[str, Any]) -> None:
    """Turn `best/` into the judge folder itself; metrics.json comes last and says that all is done."""
    for entry in (folder / "best").iterdir():
        if entry.is_dir():
            shutil.rmtree(folder / entry.name, ignore_errors=True)
        entry.replace(folder / entry.name)
    (folder / "best").rmdir()
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    write_json(folder / "metrics.json", metrics)


@entry_point
def main() -> None:
    silence_libraries()
    config = parse_config(JudgeConfig)
    if config.dry_run:
        plan_judge(config)
        return
    use_one_torch_thread()
    run(config)


if __name__ == "__main__":
    main()
