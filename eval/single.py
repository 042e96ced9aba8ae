"""Accuracy and length of one or several models on one or several benchmarks, with 95 % intervals over the problems.

    python eval/single.py --config configs/demo/single.yaml --models '{base: path/to/model}'
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/single.py --config …

Samples go to `<output_dir>/<model>/<benchmark>/traces-rank*.jsonl` as they end, so a run that was cut off goes on
where it stood; `results.jsonl` beside them holds the verdicts, `<output_dir>/summary.json` and `summary.csv` the
figures, `lengths.png` their picture. Of several models all are compared with the first one, problem by problem.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from pathlib import Path

from rich.markup import escape

from eval.one_model.report import csv_rows, draw_lengths, show, summarise, write_summary
from eval.one_model.sampling import SingleConfig, grade_all, run_models, sample_alone
from eval.traces.benchmarks import Problems
from eval.traces.next_command import table_command
from secateur.runtime.config import parse_config
from secateur.runtime.console import say, say_end, write_csv
from secateur.runtime.process import entry_point


def report(config: SingleConfig, problems: Problems) -> None:
    """Grade, write summary.json and summary.csv; print the table and draw the picture if they are wanted."""
    folder, graded = Path(config.output_dir), grade_all(config, problems)
    summary = summarise(config, graded)
    write_summary(folder, summary)
    write_csv(folder / "summary.csv", csv_rows(summary))
    if config.table:
        show(summary)
        draw_lengths(folder / "lengths.png", graded, summary.models)
        say(f"figures: {escape(str(folder / 'summary.json'))}, summary.csv")
        asked = {"problems": config.problems, "problem_count": config.problem_count, "n": 16}
        say_end(folder / "lengths.png", table_command(config, asked))


@entry_point
def main() -> None:
    run_models(parse_config(SingleConfig), sample_alone, report)


if __name__ == "__main__":
    main()
