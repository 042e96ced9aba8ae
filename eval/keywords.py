"""How often models write "wait", "but wait", "alternatively" …: before and after pruning, side by side.

    python eval/keywords.py --traces '{base: outputs/single/base, pruned: outputs/single/pruned}' \\
        --output_dir outputs/keywords

The first model is "before", every other one is compared with it. Which words are counted, and by which rules, is said
in eval/studies/keywords.py.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from eval.studies.keywords import KEYWORDS, KeywordCounter, draw, measure, show, write
from eval.studies.traces import check_traces_key, read_model_traces
from secateur.engines.model_files import load_tokenizer
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.process import entry_point


@dataclass(kw_only=True)
class KeywordsConfig:
    """What is read.

    traces: model → trace folder, folder of trace folders (`outputs/single/<model>`), or file of traces; the first
      model is what the others are compared with.
    output_dir: gets keywords.json, keywords.csv and keywords.png.
    keywords: in the place of the list in eval/studies/keywords.py.
    tokenizer: folder or Hub id that counts the tokens of traces in files.
    """

    traces: dict[str, str]
    output_dir: str = "outputs/keywords"
    keywords: list[str] | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        check_traces_key(self.traces)
        _ = self.counter

    @property
    def counter(self) -> KeywordCounter:
        return KeywordCounter(self.keywords or KEYWORDS)


@entry_point
def main() -> None:
    config = parse_config(KeywordsConfig)
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    sources = {name: read_model_traces(name, path, tokenizer) for name, path in config.traces.items()}
    report, folder = measure(config.traces, sources, config.counter), Path(config.output_dir)
    write(report, folder)
    show(report)
    draw(report, folder / "keywords.png")
    say(f"figures: {escape(str(folder))}/keywords.json, keywords.csv, keywords.png")


if __name__ == "__main__":
    main()
