"""Models × methods × benchmarks × n, all on the same stored traces, every token counted: one table.

    python eval/combined.py --config configs/demo/combined.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/combined.py --config …

Traces are sampled once per model and problem, methods are replayed on them, with every n; `live` runs the live
controller beside the replay and reports whether both agree. `report.html` shows it all. Can be killed and started
again at any time; what is added to a finished run, a benchmark, a larger n, a model, is all that is then sampled.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from pathlib import Path

from rich.markup import escape

from eval.dry_run.runs import plan_combined
from eval.report.answer import answers
from eval.report.page import ReportInputs, write_report
from eval.report.tracking import publish_table
from eval.table.config import CombinedConfig
from eval.table.run import run
from eval.table.terminal import print_results
from eval.traces.sampling import hold_output
from secateur.results import Table
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say, say_end, use_one_torch_thread
from secateur.runtime.process import entry_point


def report(config: CombinedConfig, table: Table) -> None:
    """The table, the page, and what the services in `report_to` are sent."""
    print_results(table, console)
    folder = Path(config.output_dir)
    write_report(ReportInputs(folder), folder / "report.html")
    say(f"results: {escape(str(folder / 'combined.json'))}")
    commands = [answer.command.text for answer in answers(table)]
    say_end(folder / "report.html", next(filter(None, commands), ""))
    publish_table(config, table, folder)


@entry_point
def main() -> None:
    config = parse_config(CombinedConfig)
    if config.dry_run:
        plan_combined(config)
        return
    config.claim_devices()
    use_one_torch_thread()
    with hold_output(config.output_dir):
        table = run(config)
        if table is not None:
            report(config, table)


if __name__ == "__main__":
    main()
