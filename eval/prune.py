"""Answers problems by pruned consensus: one on the command line, or all of a file, each as soon as it is done.

    python eval/prune.py --model MODEL --problem "What is 17 · 23?"
    python eval/prune.py --model MODEL --problems questions.jsonl --output_dir outputs/answers

A line of the file has a `problem` and may have an `id` and an `answer`, against which it is then counted right or
wrong. `<output_dir>/answers.jsonl` gets a line per problem as it is done, and a run that was cut off goes on with the
others. Without a judge the rule is `ahead`. Answers that are no mathematics: `--answers choice`, or another kind.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from eval.table.pruning import changed_rule
from eval.traces.next_command import table_command, told_keys
from eval.traces.sampling import SamplingKeys, hold_output, quiet_library_bars, say_plan
from secateur.deepprune.answers import AHEAD, FEWEST_TOKENS, SHORTEST_WAIT, answer_rule
from secateur.deepprune.controller import run_live
from secateur.deepprune.evidence import JudgedRule, Rule
from secateur.deepprune.job import LiveResult, ProblemJob
from secateur.deepprune.judges.folder import check_judge, load_judge
from secateur.deepprune.prune import job_of, rule_for, unasked_warning
from secateur.deepprune.rule import ADAPTIVE_RULE, PUBLISHED_RULE, PruneRule
from secateur.engines.base import Engine
from secateur.engines.registry import engine_kind
from secateur.runtime.command_lines import written
from secateur.runtime.config import parse_config
from secateur.runtime.console import progress, say, say_end, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, model_identity, read_jsonl, repair_torn_tail
from secateur.runtime.process import current_ranks, entry_point
from secateur.runtime.records import FORMAT_KEY, as_json, read_with_checksums, record_of, with_checksum
from secateur.tasks.answers.kinds import BOXED, Answers
from secateur.tasks.prompts import Prompt, prompt_of, starts_inside_thinking
from secateur.tasks.sources import check_drawn, check_source, is_drawn, load_problems

if TYPE_CHECKING:
    from secateur.deepprune.judges.base import Judge

ANSWERS = "answers.jsonl"
_FORMAT = 1
RULES: Mapping[str, Rule | None] = {
    "automatic": None,
    "fewest_tokens": FEWEST_TOKENS,
    "shortest_wait": SHORTEST_WAIT,
    "adaptive": ADAPTIVE_RULE,
    "published": PUBLISHED_RULE,
}


@dataclass(frozen=True)
class Question:
    """`gold` is None where nobody said the right answer."""

    id: str
    text: str
    gold: str | None = None


@dataclass(frozen=True)
class Answered:
    """A line of answers.jsonl. `text` is the shortest trace that voted for `answer`, both None where no trace gave
    one; `votes` of the answers; of `n` traces `started`, `finished` and `stopped` so many; `tokens` were generated,
    `judge_tokens` read or generated for the judge; `settings` tell runs apart whose lines do not belong together."""

    problem_id: str
    problem: str
    answer: str | None
    text: str | None
    votes: Mapping[str, int]
    n: int
    started: int
    finished: int
    stopped: int
    tokens: int
    judge_tokens: int
    settings: str
    right: bool | None = None


@dataclass(kw_only=True)
class PruneConfig(SamplingKeys):
    """What is answered, and by what rule.

    model: model folder, Hub id or GGUF file, or the name that the server of engine "openai" has for it.
    problem: the text of one problem.
    problems: instead of it, a JSONL file with a `problem` in each line (`id` and `answer` may be there too), a
      benchmark's name, or a split of a drawn task. problem_count: the first so many of them.
    output_dir: gets answers.jsonl; may be left out with `problem`.
    judge: folder of a judge that was trained on traces of the model; without one nothing but finished answers counts.
    n: traces per problem at most.
    rule: `automatic` is `ahead` without a judge (`fewest_tokens`) and judged evidence with one; `shortest_wait` is
      `ahead` for those who wait; `adaptive` and `published` (DeepPrune's own) always ask the judge; `answers` is what
      `rule_values` says.
    rule_values: values of `adaptive` or `published` that are to be others (secateur/deepprune/rule.py); or what
      `answers` stops and starts by (secateur/deepprune/answers.py), for example {stop: lead, lead: 3, start: pool}.
    answers: how answers are taken out of texts and compared: boxed (where `answer_from` says), choice, exact,
      json:KEY.PATH, pattern:REGEX, or none (free text, with n 1).
    """

    model: str
    models: dict[str, str] = field(init=False)
    output_dir: str = ""
    problem: str | None = None
    problems: str | None = None
    problem_count: int | None = None
    judge: str | None = None
    n: int = 64
    rule: Literal["automatic", "fewest_tokens", "shortest_wait", "adaptive", "published", "answers"] = "automatic"
    rule_values: dict[str, Any] = field(default_factory=dict)
    answers: str = BOXED

    def __post_init__(self) -> None:
        self.models = {"model": self.model}
        super().__post_init__()
        self.model = self.models["model"]
        if (self.problem is None) == (self.problems is None):
            raise InputError("give either 'problem', a text, or 'problems', a file of them")
        if self.problems is not None and not self.output_dir:
            raise InputError("key 'output_dir' is required with 'problems'; it gets answers.jsonl")
        if self.kind.votes and self.n < 2:
            raise InputError(f"key 'n' has the value {self.n}; a vote takes at least 2 traces")
        if not self.kind.votes and self.n != 1:
            raise InputError(f"key 'n' has the value {self.n}; free text (answers none) has no vote, so give n 1")
        if isinstance(self.chosen_rule, JudgedRule) and self.judge is None:
            raise InputError(f"key 'rule' has the value '{self.rule}', which asks a judge; give 'judge' as well")

    def check_inputs(self) -> None:
        """What `problems` and `judge` name is there."""
        super().check_inputs()
        if self.problems is not None:
            check_source(self.problems)
            check_drawn(self.problems, self.problem_count)
            if Path(self.problems).is_file():
                self.questions()
        if self.judge is not None:
            check_judge("judge", self.judge, engine_kind(self.engine).hands_out_states)

    def key_of(self, model: str) -> str:
        return model

    @property
    def kind(self) -> Answers:
        """Raises `InputError` for what is no kind of answers."""
        return Answers(self.answers, self.answer_from)

    @property
    def chosen_rule(self) -> Rule | None:
        """None: by whether there is a judge. Raises `InputError` for values that the rule does not have."""
        values, where = self.rule_values, "key 'rule_values'"
        if self.rule == "answers":
            return answer_rule(values, where)
        rule = RULES[self.rule]
        if values and not isinstance(rule, PruneRule):
            raise InputError(f"{where} goes with rule adaptive, published or answers, not with '{self.rule}'")
        return changed_rule(rule, values, where) if values else rule

    def questions(self) -> list[Question]:
        """Raises `InputError` naming file and line for a problem that cannot be read."""
        if self.problems is None:
            return [Question("problem", self.problem or "")]
        if is_drawn(self.problems) or not Path(self.problems).is_file():
            known = load_problems(self.problems, self.problem_count, self.seed)
            return [Question(one.id, one.problem, one.answer) for one in known]
        return read_questions(Path(self.problems))[: self.problem_count]

    def digest(self, prompt: Prompt) -> str:
        """What lines of one file must have in common."""
        made_with = {
            "model": model_identity(self.model),
            "judge": None if self.judge is None else model_identity(self.judge),
            **{key: getattr(self, key) for key in ("engine", "dtype", "rule", "n", "seed", "answer_from")},
            **{"sampling": asdict(self.spec), "prompt": prompt.stored},
            **({"rule_values": self.rule_values} if self.rule_values else {}),
            **({"answers": self.answers} if self.answers != BOXED else {}),
        }
        return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:16]


def read_questions(path: Path) -> list[Question]:
    """Raises `InputError` naming the line for one without a problem, with an id that is taken, or of other types."""
    found: dict[str, Question] = {}
    for number, line in read_jsonl(path):
        where = f"{path}, line {number}"
        text, gold, name = line.get("problem"), line.get("answer"), line.get("id", f"line-{number}")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{where}: no text under \'problem\'; write {{"problem": "…"}}')
        if gold is not None and not isinstance(gold, str):
            raise InputError(f"{where}: 'answer' is {gold!r}; write it as text, in quotes, or leave it out")
        if str(name) in found:
            raise InputError(f"{where}: the id '{name}' is there twice; give every problem its own")
        found[str(name)] = Question(str(name), text, gold)
    if not found:
        raise InputError(f"{path}: holds no problem")
    return list(found.values())


class Answering:
    """One model, judge and rule, opened once."""

    def __init__(self, config: PruneConfig) -> None:
        self.config = config
        self.judge: Judge | None = None if config.judge is None else load_judge(config.judge, config.model)
        self.rule = rule_for(config.chosen_rule, self.judge) if config.kind.votes else AHEAD
        given = {key: getattr(config, key) for key in ("prompt_family", "system_prompt", "instruction")}
        self.prompt = config.kind.prompted(prompt_of(given, (self.judge and self.judge.prompt) or Prompt()))
        self.settings = config.digest(self.prompt)

    def run(self, questions: Sequence[Question]) -> Iterator[Answered]:
        """Each as it is done."""
        if not questions:
            return
        asked = self.judge if isinstance(self.rule, JudgedRule) else None
        engine = self.config.open_engine("model", None if asked is None else asked.capture_layers or None)
        try:
            yield from self._run(engine, questions)
        finally:
            engine.close()

    def _run(self, engine: Engine, questions: Sequence[Question]) -> Iterator[Answered]:
        config, kind = self.config, self.config.kind
        extract = kind.extract(starts_inside_thinking(engine.tokenizer))
        jobs, by_job = list[ProblemJob](), dict[str, list[Question]]()
        for question in questions:
            job = job_of(question.text, engine, self.prompt, config.n, config.seed, not kind.votes)
            if job.problem_id not in by_job:
                jobs.append(job)
            by_job.setdefault(job.problem_id, []).append(question)
        how = (config.spec, self.judge, self.rule, max(config.rows, config.n), extract, kind.groups)
        unasked: list[str | None] = []
        for result in run_live(engine, jobs, *how):
            unasked.append(self._unasked(result))
            for question in by_job[result.problem_id]:  # the same text twice is answered once
                right = None if question.gold is None else kind.right(result.answer, question.gold)
                yield answered(question, result, self.settings, right)
        if unasked[0] and all(unasked):
            say(f"[bold]warning: {escape(unasked[0])}[/bold]")

    def _unasked(self, result: LiveResult) -> str | None:
        judged = self.judge is not None and isinstance(self.rule, JudgedRule)
        return unasked_warning(self.judge, result.traces) if judged else None


def answered(question: Question, result: LiveResult, settings: str, right: bool | None) -> Answered:
    """What a run came to, as it is stored."""
    states = Counter(trace.status for trace in result.traces)
    usage = result.usage
    return Answered(
        question.id,
        question.text,
        result.answer,
        result.text,
        result.votes,
        n=len(result.traces),
        started=len(result.traces) - states["unstarted"],
        finished=states["finished"] + states["whole"],
        stopped=states["pruned"],
        tokens=round(usage.generated),
        judge_tokens=round(usage.judge_prefill + usage.judge_generated),
        settings=settings,
        right=right,
    )


def read_answers(path: Path, settings: str) -> list[Answered]:
    """Raises `InputError` for lines that were made with other settings, or were changed since."""
    if not path.is_file():
        return []
    repair_torn_tail(path)
    found = []
    for number, line in read_with_checksums(path, "delete the line, and its problem is answered again"):
        if line.pop(FORMAT_KEY, None) != _FORMAT or line.get("settings") != settings:
            raise InputError(
                f"{path}, line {number}: was made with another model, judge or key; give another output_dir, or "
                "delete the file"
            )
        found.append(record_of(Answered, line, f"{path}, line {number}"))
    return found


def show(answers: Sequence[Answered]) -> None:
    """What it came to, in a few lines."""
    if len(answers) == 1:
        (one,) = answers
        say(f"answer: {escape(one.answer or one.text or 'none: no trace that finished gave one')}")
        say(f"votes:  {escape(', '.join(f'{answer} × {count}' for answer, count in one.votes.items()) or 'none')}")
    graded = [one.right for one in answers if one.right is not None]
    if graded:
        say(f"right:  {sum(graded)} of {len(graded)}")
    started, n = sum(one.started for one in answers), sum(one.n for one in answers)
    stopped, tokens = sum(one.stopped for one in answers), sum(one.tokens for one in answers)
    say(f"traces: {started:,} of {n:,} started, {stopped:,} of them stopped")
    judged = sum(one.judge_tokens for one in answers)
    say(f"tokens: {tokens:,}{f', and {judged:,} for the judge' if judged else ''}")


def next_command(config: PruneConfig, answers: Sequence[Answered]) -> str:
    """Where the right answers are known, what says how much was saved and lost; else what serves the model."""
    if config.problems is None or config.answers != BOXED or any(one.right is None for one in answers):
        return written({"model": config.model, "n": config.n, **told_keys(config)}, "serve")
    problems = {"problems": config.problems, "problem_count": config.problem_count}
    return table_command(config, {"models": {"base": config.model}, **problems, "n": config.n})


def answer_all(config: PruneConfig) -> None:
    """Answer what is not answered yet, and show it all."""
    answering = Answering(config)
    path = Path(config.output_dir) / ANSWERS if config.output_dir else None
    questions = config.questions()
    done = {one.problem_id: one for one in read_answers(path, answering.settings)} if path else {}
    missing = [question for question in questions if question.id not in done]
    say_plan(config, "votes on" if config.kind.votes else "answers to", len(missing), len(missing) * config.n)
    with progress("answering", len(questions)) as shown:
        shown.advance(len(questions) - len(missing))
        for one in answering.run(missing):
            done[one.problem_id] = one
            if path is not None:
                append_jsonl(path, [with_checksum({FORMAT_KEY: _FORMAT, **as_json(one)})])
            shown.advance()
    show([done[question.id] for question in questions])
    if path is not None:
        say_end(path, next_command(config, [done[question.id] for question in questions]))


@entry_point
def main() -> None:
    config = parse_config(PruneConfig)
    config.check_inputs()
    if current_ranks().world_size > 1:
        raise InputError("eval/prune.py runs in one process; start it without a launcher")
    config.claim_devices()
    use_one_torch_thread()
    quiet_library_bars()
    with hold_output(config.output_dir) if config.output_dir else nullcontext():
        answer_all(config)


if __name__ == "__main__":
    main()
