"""`make real`: the whole run on a public pretrained language model, SmolLM2-135M-Instruct, on two CPU cores.

    python eval/real.py --output_dir outputs/real --seed 0 --control false

Before what `make demo` does, the model is fetched, converted, and tuned for a few minutes to the form of an answer,
on word problems of secateur/tasks/word_problems.py. Everything is measured on templates that no training saw.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from dataclasses import dataclass
from typing import Literal

from eval.fetch_smollm2 import GGUF
from eval.stages import REPOSITORY, Stage, launched, python
from eval.whole_run import LAUNCH, Course, WholeRun, WholeRunConfig, folder_of, overrides, start
from secateur.deepprune.judges.kinds import own_states
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.process import entry_point

NAME = "real"
JUDGE_SEEDS = (0, 1, 2)
SMOKE = "smoke.yaml"
TUNING, TUNING_FILE = "trainers/format_tuning.py", "format_tuning.yaml"


@dataclass
class RealConfig(WholeRunConfig):
    """output_dir: gets everything. seed: of tuning, training, sampling and problems; the judges have the seeds 0-2.
    control: also train without a binding limit, and take that model into every table: what the limit itself does
    (as long again). smoke: every stage in minutes (configs/real/smoke.yaml); the figures mean nothing."""

    output_dir: str = "outputs/real"
    judge: Literal[own_states.KIND.name] = own_states.KIND.name
    smoke: bool = False


def course(config: RealConfig) -> Course:
    out = folder_of(config)
    model, tuned = out / "model", out / "tuned"
    keys = read_yaml(REPOSITORY / "configs" / NAME / SMOKE) if config.smoke else {}
    fetch = python("eval/fetch_smollm2.py", str(model))
    tune = launched(
        LAUNCH,
        TUNING,
        *("--config", f"configs/{NAME}/{TUNING_FILE}", "--model", str(model / GGUF), "--output_dir", str(tuned)),
        *("--seed", str(config.seed), *overrides(keys.get(TUNING, {}))),
    )
    before = (
        Stage("fetch", "SmolLM2-135M-Instruct as a model folder", {"fetch": fetch}),
        Stage("tune", "The form of an answer: a short supervised tuning", {"tune": tune}),
    )
    return Course(
        NAME,
        base=str(tuned),
        benchmark="words",
        minutes=50,
        judge_seeds=JUDGE_SEEDS[:2] if config.smoke else JUDGE_SEEDS,
        before=before,
        files=(TUNING_FILE, *((SMOKE,) if config.smoke else ())),
        keys=keys,
    )


@entry_point
def main() -> None:
    config = parse_config(RealConfig)
    start(WholeRun(config, course(config)))


if __name__ == "__main__":
    main()
