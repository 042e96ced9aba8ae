"""`make real`: the whole run on a public pretrained language model, SmolLM2-135M-Instruct, on two CPU cores.

    python eval/real.py --output_dir outputs/real --seed 0 --control false

Before what `make demo` does, the model is fetched, converted, and tuned for a few minutes to the form of an answer,
on word problems of secateur/tasks/word_problems.py. Everything is measured on templates that no training saw.
"""

from dataclasses import dataclass
from typing import Literal

from eval.fetch_smollm2 import GGUF
from eval.stages import Stage, launched, python
from eval.whole_run import LAUNCH, Course, WholeRun, WholeRunConfig, folder_of, start
from secateur.deepprune.judges.kinds import own_states
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.process import entry_point

NAME = "real"
JUDGE_SEEDS = (0, 1, 2)


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
    keys = read_yaml(f"configs/{NAME}/smoke.yaml") if config.smoke else {}
    tuning = launched(
        LAUNCH,
        "trainers/format_tuning.py",
        *("--config", f"configs/{NAME}/format_tuning.yaml", "--model", str(model / GGUF), "--output_dir", str(tuned)),
        *("--seed", str(config.seed)),
        *(
            part
            for key, value in keys.get("trainers/format_tuning.py", {}).items()
            for part in (f"--{key}", str(value))
        ),
    )
    before = (
        Stage(
            "fetch", "SmolLM2-135M-Instruct as a model folder", {"fetch": python("eval/fetch_smollm2.py", str(model))}
        ),
        Stage("tune", "The form of an answer: a short supervised tuning", {"tune": tuning}),
    )
    seeds = JUDGE_SEEDS[:2] if config.smoke else JUDGE_SEEDS
    return Course(NAME, base=str(tuned), benchmark="words", judge_seeds=seeds, before=before, keys=keys)


@entry_point
def main() -> None:
    config = parse_config(RealConfig)
    start(WholeRun(config, course(config)))


if __name__ == "__main__":
    main()
