"""How alike the answers of parallel traces are: what pruning can save at most, per model and set of problems.

    python eval/redundancy.py --traces outputs/demo/traces/base/test file.jsonl.gz --output_dir outputs/redundancy

Reads trace folders and trace files. The share of pairs with the same answer is the figure of DeepPrune, table 1
(arXiv 2510.08483: over 80 % on its models); the cuts are those that a judge would read.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from eval.studies.redundancy import Redundancy, measure_file, measure_folder, show, write
from secateur.deepprune.cut import CutRule
from secateur.engines.model_files import load_tokenizer
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.tasks.answers.extraction import ANSWER, Extract, extraction


@dataclass(kw_only=True)
class RedundancyConfig:
    """What is read.

    traces: trace folders, or files of traces (`problem_id, problem, gold, sample, text`, optionally `model`).
    output_dir: gets redundancy.json, redundancy.png and redundancy.svg.
    cut_kind, cut_k: the cut; by default the folder's own, for files 25 words.
    tokenizer: folder or Hub id, to count the tokens of traces in files.
    thinking: completions begin inside `<think>`, because the chat template opens it.
    answer_from: where the final answer is: answer, anywhere, pattern:REGEX or package.module:function.
    """

    traces: list[str] | str
    output_dir: str = "outputs/redundancy"
    cut_kind: str | None = None
    cut_k: int | None = None
    tokenizer: str | None = None
    thinking: bool = False
    answer_from: str = ANSWER

    def __post_init__(self) -> None:
        if (self.cut_kind is None) != (self.cut_k is None):
            raise InputError("keys 'cut_kind' and 'cut_k' belong together: give both or none")
        extraction(self.answer_from)

    @property
    def paths(self) -> list[Path]:
        return [Path(self.traces)] if isinstance(self.traces, str) else [Path(path) for path in self.traces]

    @property
    def extract(self) -> Extract:
        return extraction(self.answer_from, self.thinking)

    @property
    def rule(self) -> CutRule | None:
        return None if self.cut_kind is None else CutRule(self.cut_kind, self.cut_k)


def measure_path(config: RedundancyConfig, path: Path) -> list[Redundancy]:
    """A folder is one model's set; a file may hold several models."""
    if path.is_dir():
        return [measure_folder(path, config.rule, config.extract)]
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    return measure_file(path, config.rule or CutRule(), tokenizer, config.extract)


@entry_point
def main() -> None:
    config = parse_config(RedundancyConfig)
    reports = [report for path in config.paths for report in measure_path(config, path)]
    show(reports)
    write(reports, config.output_dir, config.answer_from)
    say(f"figures: {escape(config.output_dir)}/redundancy.json, redundancy.png, redundancy.svg")


if __name__ == "__main__":
    main()
