"""`make demo`: length and redundancy pruning end to end on the embedded model, one table, one report.

python eval/demo.py --output_dir outputs/demo --seed 0 --judge linear_own_states --control false
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from dataclasses import dataclass

from eval.whole_run import Course, WholeRun, WholeRunConfig, start
from secateur.runtime.config import parse_config
from secateur.runtime.process import entry_point

DEMO = Course("demo", base="trainers/embedded_model", benchmark="arithmetic", minutes=8)


@dataclass
class DemoConfig(WholeRunConfig):
    __doc__ = WholeRunConfig.__doc__

    output_dir: str = "outputs/demo"


@entry_point
def main() -> None:
    start(WholeRun(parse_config(DemoConfig), DEMO))


if __name__ == "__main__":
    main()
