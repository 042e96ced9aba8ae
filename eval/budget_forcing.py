"""Budget forcing (s1, arXiv 2501.19393): thinking ends by force after a budget of tokens. The baseline that
ThinkPrune compares with: what comes of the base model if it is simply cut off?

    python eval/budget_forcing.py --config configs/demo/budget_forcing.yaml --models '{base: path/to/model}'
    accelerate launch … eval/budget_forcing.py --config …

Where thinking has not ended by itself after `budget` tokens, the family's string that ends it (`FORCING`) is put
behind them, and the model goes on freely for up to `answer_tokens`. The first tokens of a forced trace are those of
the unforced one: every budget continues the same unforced samples, as `eval/single.py` makes and stores them, so that
budgets are compared on equal samples and only answers are generated anew. A trace that ended its thinking in time is
taken over untouched. Give `output_dir` of an earlier run of eval/single.py with the same keys to use its samples.

Every trace of every budget is stored in `<output_dir>/budget_forcing/<model>/<benchmark>/<budget>/` with all its ids:
thinking, the string and the answer; `cut_tokens` says after how many tokens thinking was cut, if it was.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape

from eval.one_model.figures import figures_of, grade_folder
from eval.one_model.sampling import (
    OpenedModel,
    SingleConfig,
    grade_model,
    prompt_lengths,
    run_models,
    sample_model,
)
from eval.studies.budget import (
    Budget,
    BudgetPoint,
    BudgetReport,
    Forcer,
    budget_point,
    draw,
    force_missing,
    show,
    unforced_point,
    write,
)
from eval.traces.benchmarks import Problems
from secateur.engines.base import SamplingSpec
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, TraceFolderWriter, read_trace_folder
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.process import current_ranks, entry_point
from secateur.runtime.records import as_json
from secateur.runtime.statistics import mean_with_interval
from secateur.tasks.answers.equality import GRADER_VERSION
from secateur.tasks.prompts import FORCING, FORCING_OF_FAMILY, Forcing, check_forcing


@dataclass(kw_only=True)
class BudgetForcingConfig(SingleConfig):
    """What is forced; the keys of eval/single.py, and:

    budgets: thinking tokens after which thinking ends by force.
    answer_tokens: cap on what is generated after that [tokens].
    forcing: which string ends thinking: deepseek, qwq, s1, plain or boxed; by default that of `prompt_family`.
    """

    budgets: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    answer_tokens: int = 2000
    forcing: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("answer_tokens")
        check_forcing("forcing", self.forcing)
        if not self.budgets or min(self.budgets) < 1 or len(set(self.budgets)) < len(self.budgets):
            raise InputError(
                f"key 'budgets' has the value {list(self.budgets)}: expected different numbers from 1 on"
            )

    @property
    def chosen_forcing(self) -> Forcing:
        return FORCING[self.forcing or FORCING_OF_FAMILY[self.prompt_family]]

    def budget(self, tokens: int) -> Budget:
        spec = SamplingSpec(self.temperature, self.top_p, self.top_k, self.answer_tokens)
        return Budget(tokens, self.chosen_forcing, spec, self.prompt, self.seed, self.rows)

    def forced_folder(self, model: str, benchmark: str, budget: int) -> Path:
        return Path(self.output_dir) / "budget_forcing" / model / benchmark / str(budget)

    def forced_settings(self, model: str, source: str, budget: int) -> dict[str, JSON]:
        forcing = {"budget": budget, "answer_tokens": self.answer_tokens} | asdict(self.chosen_forcing)
        forcing["own_line"] = True  # earlier versions did not put the string on a line of its own
        return self.trace_settings(model, source) | {"budget_forcing": forcing}


def force_alone(config: BudgetForcingConfig, name: str, problems: Problems) -> None:
    """One model: sample what is missing of the unforced traces, then force them at every budget."""
    with OpenedModel(config, name) as model:
        sample_model(model, config, problems)
        force_model(model, config, problems)


def force_model(model: OpenedModel, config: BudgetForcingConfig, problems: Problems) -> None:
    """Force the stored traces of `problems`, this process's share, at every budget."""
    for benchmark, source in config.benchmarks.items():
        samples = config.samples_of(benchmark)
        share = {problem.id for problem in problems[benchmark]}
        entries = read_trace_folder(config.folder(model.name, benchmark))
        unforced = [
            ProblemTraces(entry.problem, _first(entry.traces, samples))
            for entry in entries
            if entry.problem.id in share
        ]
        for tokens in sorted(config.budgets):
            folder = config.forced_folder(model.name, benchmark, tokens)
            settings = config.forced_settings(model.name, source, tokens)
            with TraceFolderWriter(folder, settings, current_ranks().rank) as writer:
                force_missing(model, config.budget(tokens), unforced, writer)


def _first(traces: Sequence[StoredTrace], samples: int) -> list[StoredTrace]:
    return [stored for stored in traces if int(stored.trace.sample) < samples]


def measure_model(config: BudgetForcingConfig, name: str, problems: Problems) -> dict[str, tuple[BudgetPoint, ...]]:
    """Benchmark → the points of its curve: every budget, and last the unforced one."""
    tokenizer = load_tokenizer(config.tokenizer_of(name))
    forcer = Forcer(tokenizer, config.chosen_forcing)
    extract, unforced = config.extract(tokenizer), grade_model(config, name, problems)
    found = {}
    for benchmark, wanted in problems.items():
        lengths, samples = prompt_lengths(tokenizer, wanted, config.prompt), config.samples_of(benchmark)
        points = []
        for tokens in sorted(config.budgets):
            folder = config.forced_folder(name, benchmark, tokens)
            graded = grade_folder(folder, wanted, samples, extract, lengths, config.majority)
            injected = _injected(forcer, folder, {problem.id for problem in wanted}, samples)
            share = mean_with_interval([sum(map(bool, group)) / samples for group in injected])
            total = sum(map(sum, injected))
            points.append(budget_point(tokens, figures_of(graded, config.pass_k or ()), share, total))
        last = unforced_point(figures_of(unforced[benchmark], config.pass_k or ()))
        found[benchmark] = (*points, last)
    return found


def _injected(forcer: Forcer, folder: Path, wanted: set[str], samples: int) -> list[list[int]]:
    """How many tokens were put behind the thinking of each trace, 0 where it was not forced; a list per problem."""
    entries = [entry for entry in read_trace_folder(folder) if entry.problem.id in wanted]
    return [[_injected_tokens(forcer, stored) for stored in _first(entry.traces, samples)] for entry in entries]


def _injected_tokens(forcer: Forcer, stored: StoredTrace) -> int:
    if stored.cut_tokens is None:
        return 0
    return len(forcer.injected((stored.trace.token_ids or ())[: stored.cut_tokens])[1])


def report(config: BudgetForcingConfig, problems: Problems) -> None:
    """Write the curves; show and draw them if they are wanted."""
    curves = {name: measure_model(config, name, problems) for name in config.models}
    folder = Path(config.output_dir)
    write(BudgetReport(as_json(asdict(config)), GRADER_VERSION, config.chosen_forcing, curves), folder)
    if config.table:
        show(curves)
        draw(curves, folder / "budget_forcing.png")
        say(f"figures: {escape(str(folder))}/budget_forcing.json, budget_forcing.csv, budget_forcing.png")


@entry_point
def main() -> None:
    run_models(parse_config(BudgetForcingConfig), force_alone, report)


if __name__ == "__main__":
    main()
