"""Accuracy and length of one or several models on one or several benchmarks, with 95 % intervals over the problems.

    python eval/single.py --config configs/demo/single.yaml --models '{base: path/to/model}'
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/single.py --config …

Samples go to `<output_dir>/<model>/<benchmark>/traces-rank*.jsonl` as they end, so a run that was cut off goes on
where it stood; `results.jsonl` beside them holds the verdicts, `<output_dir>/summary.json` and `summary.csv` the
figures, `lengths.png` their picture. Of several models all are compared with the first one, problem by problem.
"""

from pathlib import Path

from rich.markup import escape

from eval.one_model.report import Grades, csv_rows, draw_lengths, show, summarise, write_summary
from eval.one_model.sampling import SingleConfig, check_inputs, for_each_model, grade_all, sample_alone
from eval.traces.sampling import hold_output, wait_for_all_processes
from secateur.runtime.config import parse_config
from secateur.runtime.console import say, use_one_torch_thread, write_csv
from secateur.runtime.process import current_ranks, entry_point


def report(config: SingleConfig, graded: Grades) -> None:
    """Write summary.json and summary.csv; print the table and draw the picture if they are wanted."""
    folder, summary = Path(config.output_dir), summarise(config, graded)
    write_summary(folder, summary)
    write_csv(folder / "summary.csv", csv_rows(summary))
    if config.table:
        show(summary)
        draw_lengths(folder / "lengths.png", graded, summary.models)
        say(f"figures: {escape(str(folder / 'summary.json'))}, summary.csv, lengths.png")


@entry_point
def main() -> None:
    config = parse_config(SingleConfig)
    if config.check:
        check_inputs(config)
        return
    config.claim_devices()
    use_one_torch_thread()
    problems = config.load()
    with hold_output(config.output_dir):
        for_each_model(sample_alone, config, problems)
        wait_for_all_processes()
        if current_ranks().is_main:
            report(config, grade_all(config, problems))


if __name__ == "__main__":
    main()
