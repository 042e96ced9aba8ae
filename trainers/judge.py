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

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.markup import escape

from secateur.deepprune.cut import whole_cuts_warning
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.folder import check_weights
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.record import (
    METRICS_FILE,
    JudgeMetrics,
    ScoreFigures,
    read_judge,
    store_measured,
    write_metrics,
)
from secateur.runtime.cards import library_versions
from secateur.runtime.command_lines import PROBLEM, written
from secateur.runtime.config import parse_config, read_written_yaml, write_yaml
from secateur.runtime.console import say, say_end, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder
from secateur.runtime.process import current_ranks, entry_point
from secateur.runtime.records import check_start_model, write_start_model
from trainers.dry_run.judge import plan_judge
from trainers.judges.config import FREE_KEYS, JudgeConfig
from trainers.judges.data import load_judge_data
from trainers.judges.figures import (
    baseline_figures,
    calibrated,
    cut_figures,
    figure_rows,
    ngram_scores,
    raw_scores,
    test_figures,
    within_figures,
)
from trainers.judges.fit import steps_done
from trainers.judges.trainee import scored_part
from trainers.judges.training import (
    PUBLISHING,
    check_precision,
    finish_publishing,
    hub_target,
    make_judge,
    publish,
    share_judge,
    start_trackers,
    train_ngram,
)
from trainers.judges.worth import measure_worth

_LIBRARIES = ("secateur", "torch", "transformers", "peft", "sentence-transformers")


def is_finished(config: JudgeConfig) -> bool:
    """Whether this very run has finished in its output folder; `InputError` if another one began there."""
    folder = Path(config.output_dir)
    if not (folder / "config.yaml").is_file():
        return False
    remedy = "restore it from a copy, or delete the folder to train anew"
    stored, values = read_written_yaml(folder / "config.yaml", remedy), config.to_json()
    for key in sorted((values.keys() | stored.keys()) - FREE_KEYS):
        if stored.get(key) != values.get(key):
            raise InputError(
                f"{folder} holds a judge with {key} = {stored.get(key)!r}, this run has {values.get(key)!r}; "
                "give another 'output_dir', or delete the folder to train anew"
            )
    check_start_model(folder, config.model)
    # The main process may just be moving it from the one place to the other.
    return (folder / PUBLISHING / METRICS_FILE).is_file() or (folder / METRICS_FILE).is_file()


def run(config: JudgeConfig) -> None:
    """Make, measure and share the judge; what is finished already is only shared."""
    folder = Path(config.output_dir)
    if current_ranks().is_main:
        finish_publishing(folder)
    finished = is_finished(config)
    target = hub_target(config)
    if finished:
        check_weights(folder, read_judge(folder))
        say(f"judge: {escape(str(folder))} is finished, nothing to train")
    else:
        _make_and_measure(config)
    share_judge(folder, target)
    if current_ranks().is_main:
        say_end(folder / METRICS_FILE, first_question(config, folder))


def first_question(config: JudgeConfig, folder: Path) -> str:
    """A command that prunes by the judge, or without it where its cuts have earned nothing."""
    model = config.generator or (config.model if config.judge_kind.reads_states else "MODEL")
    judge = {} if read_judge(folder).weight == 0 else {"judge": str(folder)}
    return written({"model": model, **judge, "problem": PROBLEM})


def _make_and_measure(config: JudgeConfig) -> None:
    folder = Path(config.output_dir)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    check_precision(config, accelerator)
    set_seed(config.seed)
    data = load_judge_data(config)
    say_cut(data)
    if accelerator.is_main_process:  # only now: input that does not fit leaves no folder behind
        write_yaml(folder / "config.yaml", config.to_json())
        write_start_model(folder, config.model)
    resumed_at = steps_done(folder / "checkpoint")
    start_trackers(accelerator, config.report_to, folder, "judge", [config.model], config.to_json(), resumed_at)
    judge, training = make_judge(config, data, accelerator)
    calibration = calibrated(judge, data, config)
    tests = {name: scored_part(config, problems, config.test_pairs) for name, problems in data.tests.items()}
    raw = {name: raw_scores(judge, problems) for name, problems in tests.items()}
    models = {name: test_figures(judge, data, problems, raw[name]) for name, problems in tests.items()}
    first, problems = next(iter(tests.items()))
    ngram = ngram_scores(train_ngram(config, data), problems) if config.epochs else None
    within = within_figures(problems, calibration(raw[first]), ngram)
    worth = measure_worth(judge, within, data, config)
    baselines = _baselines(config, data, problems, ngram, accelerator.device)
    metrics = JudgeMetrics(
        **vars(models[first]),
        **vars(worth),
        kind=config.kind,
        auroc_within_problems=within,
        baselines=baselines,
        models=models if len(models) > 1 else {},
        training=training,
        config=config.to_json(),
        versions=library_versions(_LIBRARIES),
        cut_choice=data.cut_choice,
    )
    _track(accelerator, metrics)
    if accelerator.is_main_process:
        store_measured(folder / "best", calibration, worth.weight, worth.verdict)
        write_metrics(folder / "best", metrics)
        publish(folder)
    say(f"judge {config.kind}: {escape(str(folder))}")
    for row in figure_rows(metrics):
        say(f"  {escape(row)}")


def say_cut(data: JudgeData) -> None:
    """How the cut was chosen, and what it leaves if that is little."""
    if data.cut_choice is not None:
        say(f"cut: {data.cut_choice}")
    if warning := whole_cuts_warning(cut_figures(data.dev).whole_cut_share):
        say(f"[bold]warning: {warning}[/bold]")


def _baselines(
    config: JudgeConfig,
    data: JudgeData,
    problems: list[LabelledProblem],
    ngram: np.ndarray | None,
    device: torch.device,
) -> dict[str, ScoreFigures]:
    """What the judge has to beat; where it could be used without training, that as well. `ngram`: the trained
    baseline's scores [pairs]."""
    found = baseline_figures(ngram, data, problems, config)
    if config.epochs and config.judge_kind.training == "possible":
        zero_shot: Judge = config.judge_kind.as_it_is(config, data, device)
        calibrated(zero_shot, data, config)
        found["zero_shot"] = test_figures(zero_shot, data, problems, raw_scores(zero_shot, problems))
    return found


def _track(accelerator: Accelerator, figures: JudgeMetrics) -> None:
    accelerator.log({"test/auroc": figures.auroc, "test/tnr_at_fnr20": figures.tnr_at_fnr20})
    part = figures.unfinished
    accelerator.log({"test/unfinished_auroc": part.auroc, "test/unfinished_tnr_at_fnr20": part.tnr_at_fnr20})
    accelerator.log({"test/auroc_within_problems": figures.auroc_within_problems.value, "dev/weight": figures.weight})
    accelerator.end_training()


@entry_point
def main() -> None:
    silence_libraries()
    config = parse_config(JudgeConfig)
    if config.dry_run:
        plan_judge(config)
        return
    use_one_torch_thread()
    with hold_folder(config.output_dir) if current_ranks().is_main else nullcontext():
        run(config)


if __name__ == "__main__":
    main()
