"""The keys of scripts that measure single traces: benchmarks, and how many problems and samples of each."""

from dataclasses import dataclass
from pathlib import Path

from eval.one_model.figures import MACRO
from eval.traces.benchmarks import Problems, check_counts, check_names, load_benchmarks, sources_of
from eval.traces.sampling import SamplingKeys
from secateur.runtime.errors import InputError


@dataclass(kw_only=True)
class SingleConfig(SamplingKeys):
    """What is measured; the defaults are ThinkPrune's evaluation settings.

    problems: one source (JSONL path, `arithmetic:<split>` or a benchmark's name), or benchmark → source; a single
      source is a benchmark named after it.
    problem_count: how many problems, for all benchmarks or benchmark → number; all by default.
    samples: completions per problem, for all benchmarks or benchmark → number.
    pass_k: further k of pass@k beside 1, 2, 4, … up to the number of samples.
    majority: also say how often the most frequent answer is right; answers are then compared with one another.
    table: print the figures and draw the picture; schedules/run.py shows them in its own way.
    """

    problems: str | dict[str, str]
    problem_count: int | dict[str, int] | None = None
    samples: int | dict[str, int] = 16
    pass_k: list[int] | None = None
    majority: bool = False
    table: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.benchmarks, (MACRO,))
        check_counts("samples", self.samples, self.benchmarks, all_needed=True)
        check_counts("problem_count", self.problem_count, self.benchmarks)
        for k in self.pass_k or ():
            fewest = min(self.samples_of(name) for name in self.benchmarks)
            if not 1 <= k <= fewest:
                raise InputError(f"key 'pass_k' holds {k}: expected 1 to {fewest}, the smallest number of samples")

    @property
    def benchmarks(self) -> dict[str, str]:
        """Benchmark → source of its problems."""
        return sources_of(self.problems)

    def samples_of(self, benchmark: str) -> int:
        return self.samples if isinstance(self.samples, int) else self.samples[benchmark]

    def load(self) -> Problems:
        """The problems of every benchmark. Raises `InputError` for a source that cannot be read."""
        return load_benchmarks(self.benchmarks, self.problem_count, self.seed)

    def folder(self, model: str, benchmark: str) -> Path:
        return Path(self.output_dir) / model / benchmark
