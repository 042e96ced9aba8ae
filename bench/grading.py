"""Throughput of `grade_batch` against a plain loop of math-verify on the same answers, and what hostile answers cost.

    python bench/grading.py [--count 5000] [--repeats 3] [--data FOLDER] [--out DISAGREEMENTS.jsonl]
    python bench/grading.py --attacks     # only the table of bench/attacks.jsonl: who is taken in by what

FOLDER holds `traces/*.jsonl.gz` and `problems/*.jsonl` (default: `../shared/data` beside the project); without one
the answers are made from the embedded task, which is said. Two batches: *distinct*, in which every (answer, gold)
pair differs, so that nothing can be remembered, and *training*, 16 completions per problem with repeated answers.

The plain loop is what a math-verify reward does per completion: parse the gold answer, parse the text, verify, with
its own time limits (10 s, 5 s). Every measurement is a process of its own, so that both start cold; imports and the
start of the workers are outside the clock and reported. Contenders alternate; the ratio is the median of the repeats'
ratios. The hostile batch is graded with and without its hostile items in one process each; the other verdicts must
not change.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from secateur.runtime.console import progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_jsonl
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import GRADER_VERSION, grade_batch
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.answers.text import braced
from secateur.tasks.arithmetic import make_problems, make_trace
from secateur.tasks.records import read_problems, read_traces

Item = tuple[str, str]  # the text of a completion, the gold answer of its problem
COMPLETIONS = 16  # per problem in a batch as training has it
WORDS = "Therefore, putting everything together, the final answer is ${}$."


def real_items(folder: Path) -> list[Item]:
    """Completions of models (`traces/*.jsonl.gz`), as they are."""
    return [
        (trace.text, trace.gold) for path in sorted((folder / "traces").glob("*.gz")) for trace in read_traces(path)
    ]


def distinct_items(count: int, folder: Path | None, seed: int = 0) -> list[Item]:
    """`count` items whose (answer, gold answer) pairs all differ: real ones first, then rewritten gold answers."""
    rng, found = random.Random(seed), {}
    for text, gold in _stream(folder, rng):
        found.setdefault((extract_answer(text), gold), (text, gold))
        if len(found) == count:
            break
    return list(found.values())


def training_items(count: int, distinct: list[Item], seed: int = 0) -> list[Item]:
    """A batch as training has it: 16 completions per problem, most of which give one of few answers."""
    rng = random.Random(seed)
    by_gold: dict[str, list[Item]] = {}
    for item in distinct:
        by_gold.setdefault(item[1], []).append(item)
    golds = [gold for gold, items in by_gold.items() if len(items) >= 3]
    batch: list[Item] = []
    while len(batch) < count:
        answers = rng.sample(by_gold[rng.choice(golds)], 3)
        batch += rng.choices(answers, weights=(10, 4, 2), k=COMPLETIONS)
    return batch[:count]


def hostile_items() -> list[Item]:
    """100 towers of powers and factorials, 100 pathological LaTeX texts; none is a right answer."""
    towers = [
        f"{base}^{{{base}^{{{base}^{{{n}}}}}}}" if n % 4 == 0 else
        f"10^{{10^{{1{n}}}}}" if n % 4 == 1 else
        f"(({n + 3}!)!)!" if n % 4 == 2 else f"x^{{{n}^{{99999}}}} + 9^{{9^{{9}}}}"
        for n, base in ((n, 7 + n % 4) for n in range(100))
    ]  # fmt: skip
    shapes = [
        lambda n: "\\frac{1}{" * (n + 5) + "2" + "}" * (n + 5),
        lambda n: "(" * (40 + n) + "1" + ")" * (40 + n),
        lambda n: "\\sqrt{" * (20 + n) + "x" + "}" * (20 + n),
        lambda n: "\\int " * (3 + n // 10) + f"e^{{x^{{x}}}} \\sin(x^{{{n}}}) dx",
        lambda n: "+".join(f"\\sqrt{{{k}+\\sqrt{{{k + n}}}}}" for k in range(2, 40)),
        lambda n: f"\\sum_{{k=1}}^{{10^{{{n + 5}}}}} k^{{k}}",
        lambda n: "x" * (900 + n // 10),
        lambda n: "\\left(" * 40 + "{" * n + "\\frac" * 30,
        lambda n: f"\\prod_{{k=1}}^{{9999}} (x^{{k}}+\\sin(k^{{{n}}}))",
        lambda n: f"\\sum_{{a=1}}^{{999}}\\sum_{{b=1}}^{{999}} \\frac{{\\binom{{{n + 9}}}{{5}}}}{{a^b+b}}",
    ]  # fmt: skip
    return [(f"\\boxed{{{answer}}}", "7") for answer in towers + [shapes[n % 10](n) for n in range(100)]]


def _stream(folder: Path | None, rng: random.Random) -> Iterator[Item]:
    if folder is None:
        for problem in make_problems("train", 1000, seed=0):
            yield make_trace(problem, rng, clean=True), problem.answer
        golds = [f"\\frac{{{rng.randint(1, 99)}}}{{{rng.randint(2, 99)}}}" for _ in range(250)]
        golds += [f"{rng.randint(2, 99)}\\sqrt{{{rng.randint(2, 99)}}}" for _ in range(100)]
        golds += [f"{rng.randint(2, 99)}x^2 - {rng.randint(1, 99)}" for _ in range(100)]
    else:
        yield from real_items(folder)
        golds = [
            problem.answer
            for path in sorted((folder / "problems").glob("*.jsonl"))
            for problem in read_problems(path)
        ]
    while True:
        for gold in golds:
            answer = (
                _rewritten(gold, rng)
                if rng.random() < 0.5
                else _perturbed(rng.choice([gold, rng.choice(golds)]), rng)
            )
            yield WORDS.format(f"\\boxed{{{answer}}}"), gold


def _rewritten(gold: str, rng: random.Random) -> str:
    """The same answer, spelled differently."""
    changes = [
        lambda s: s.replace("\\frac", "\\dfrac"), lambda s: s.replace("(", "\\left(").replace(")", "\\right)"),
        lambda s: s.replace(" ", ""), lambda s: s.replace("+", " + ").replace("-", " - "), lambda s: f"{{{s}}}",
        lambda s: s.replace(", ", ",\\ "), lambda s: f"\\displaystyle {s}", lambda s: f"\\;{s}", lambda s: s + "\\,",
        lambda s: s.replace("\\mbox", "\\text"), lambda s: s.replace("^\\circ", ""), lambda s: s.replace("\\$", ""),
    ]  # fmt: skip
    for change in rng.sample(changes, 2):
        gold = change(gold)
    return gold


def _perturbed(gold: str, rng: random.Random) -> str:
    """Another answer of the same shape: one of its numbers is changed."""
    numbers = list(re.finditer(r"\d+", gold))
    if not numbers:
        return f"{gold} + {rng.randint(1, 99)}"
    chosen = rng.choice(numbers)
    return gold[: chosen.start()] + str(int(chosen.group()) + rng.randint(1, 30)) + gold[chosen.end() :]


_UNITS = re.compile(
    r"(?<![a-zA-Z\\])(?:degrees?|km|cm|mm|meters?|miles?|feet|ft|inch(?:es)?|hours?|minutes?|dollars?|cents?|apples|cups|"
    r"square|units?|percent|[acdghlmost])(?![a-zA-Z])"
)


def released_rules(text: str, gold: str) -> bool:
    """The rules of ThinkPrune's released grader (verl/utils/reward_score/qwen_math.py) without its symbolic step: the
    last box, closed or not, or what follows "he answer is"; units and left sides taken off; numbers equal up to 1e-4,
    or a factor of 100; brackets taken off; tuples item by item."""
    if "boxed" in text:
        tail = text.rpartition("boxed")[2]
        end = braced(tail, 0) if tail.startswith("{") else -1
        found = tail[1:end] if end > 0 else tail.lstrip("{").partition("$")[0]
    elif "he answer is" in text:
        found = text.rpartition("he answer is")[2]
    else:
        return False
    return _same_by_released_rules(_stripped(found), _stripped(gold))


def _stripped(answer: str) -> str:
    answer = re.sub(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", answer.strip().rstrip("."))
    answer = re.sub(r"\\left|\\right|\\[!,;: ]|\\?[$%]|\^\{?\\circ\}?|(?<=\d),(?=\d{3})", "", answer)
    answer = _UNITS.sub("", answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
    answer = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", answer).replace(" ", "")
    return answer.rpartition("=")[2] if answer.count("=") == 1 and len(answer.partition("=")[0]) <= 2 else answer


def _same_by_released_rules(found: str, gold: str) -> bool:
    if not found or found.lower() == gold.lower():
        return bool(found)
    if gold in ("A", "B", "C", "D", "E"):
        letters = re.findall(r"\b[A-E]\b", found.upper())
        return bool(letters) and letters[-1] == gold
    numbers = [_value(found), _value(gold)]
    if None not in numbers:
        value, wanted = float(numbers[0] or 0), float(numbers[1] or 0)
        return any(abs(value - one) <= 1e-4 * abs(one) for one in (wanted / 100, wanted, wanted * 100))
    inner, wanted_inner = (re.sub(r"^[\[({]|[\])}]$", "", text.replace("\\", "")) for text in (found, gold))
    if (inner, wanted_inner) != (found, gold):
        return _same_by_released_rules(inner, wanted_inner)
    parts, wanted_parts = found.split(","), gold.split(",")
    pairs = zip(parts, wanted_parts, strict=False)
    return 1 < len(parts) == len(wanted_parts) and all(_same_by_released_rules(*pair) for pair in pairs)


def _value(text: str) -> float | None:
    match = re.fullmatch(r"(-?\d*\.?\d+)(?:/(\d+))?", text)
    return None if match is None or match[2] == "0" else float(match[1]) / float(match[2] or 1)


def attack_table() -> list[str]:
    """By kind: how many of the cases of bench/attacks.jsonl each grader takes for right, or, of right ones, wrong."""
    cases = [case for _, case in read_jsonl(Path(__file__).parent / "attacks.jsonl")]
    items = [(str(case["completion"]), str(case["gold"])) for case in cases]
    graders = [our_verdicts(items), plain_verdicts(items), [released_rules(*item) for item in items]]
    lines = [
        "| kind | completions | ours | math-verify | released rules |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(case["kind"] for case in cases):
        chosen = [index for index, case in enumerate(cases) if case["kind"] == kind]
        wrong = [sum(found[index] is not cases[index]["right"] for index in chosen) for found in graders]
        lines.append(f"| {kind} | {len(chosen)} | {' | '.join(map(str, wrong))} |")
    return lines


CONTENDERS = ("plain", "ours")


def plain_verdicts(items: list[Item]) -> list[bool]:
    """math-verify, one completion after the other."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    boxed = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
    )
    verdicts = []
    for text, gold in items:
        wanted = parse(f"${gold}$", parsing_timeout=10)
        found = parse(text, extraction_config=[boxed], extraction_mode="first_match", parsing_timeout=10)
        verdicts.append(bool(verify(wanted, found, timeout_seconds=5)))
    return verdicts


def our_verdicts(items: list[Item]) -> list[bool]:
    return grade_batch([text for text, _ in items], [gold for _, gold in items])


def measure_here(contender: str, items: list[Item]) -> dict:
    """One cold measurement in this process: seconds until ready (imports, workers), seconds of grading, verdicts."""
    verdicts_of = plain_verdicts if contender == "plain" else our_verdicts
    began = time.perf_counter()
    verdicts_of([("\\boxed{2\\sqrt{3}}", "\\sqrt{12}")])
    ready = time.perf_counter()
    verdicts = verdicts_of(items)
    return {"start_s": ready - began, "seconds": time.perf_counter() - ready, "verdicts": verdicts}


def measure(contender: str, items: list[Item]) -> dict:
    """`measure_here` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", contender],
        input=json.dumps(items),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, items: list[Item], repeats: int) -> tuple[list[str], dict[str, list[dict]]]:
    """Rows of the table for one batch, and all measurements by contender."""
    found: dict[str, list[dict]] = {contender: [] for contender in CONTENDERS}
    with progress(f"grading, {name}", 2 * repeats) as shown:
        for repeat in range(repeats):
            for contender in CONTENDERS if repeat % 2 == 0 else CONTENDERS[::-1]:
                found[contender].append(measure(contender, items))
                shown.advance()
    ratios = [plain["seconds"] / ours["seconds"] for plain, ours in zip(found["plain"], found["ours"], strict=True)]
    speeds = [len(items) / statistics.median(run["seconds"] for run in found[contender]) for contender in CONTENDERS]
    pairs = len({(extract_answer(text), gold) for text, gold in items})
    ratio = f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f}–{max(ratios):.1f})"
    return [name, f"{len(items):,}", f"{pairs:,}", f"{speeds[0]:,.0f}", f"{speeds[1]:,.0f}", ratio], found


def hostile_lines(items: list[Item]) -> list[str]:
    """What 200 hostile answers add to a batch, and whether they change any other verdict."""
    hostile = hostile_items()
    step = max(1, len(items) // len(hostile))
    mixed: list[Item] = []
    marks: list[bool] = []
    for index, item in enumerate(items):
        if index % step == 0 and index // step < len(hostile):
            mixed.append(hostile[index // step])
            marks.append(True)
        mixed.append(item)
        marks.append(False)
    calm, stormy = measure("ours", items), measure("ours", mixed)
    others = [verdict for verdict, mark in zip(stormy["verdicts"], marks, strict=True) if not mark]
    changed = sum(a != b for a, b in zip(calm["verdicts"], others, strict=True))
    right = sum(verdict for verdict, mark in zip(stormy["verdicts"], marks, strict=True) if mark)
    return [
        f"- **Hostile**: {sum(marks)} towers of powers and pathological texts among {len(items):,} answers: "
        f"{calm['seconds']:.2f} s become {stormy['seconds']:.2f} s (their own limits, 1 s each, would allow "
        f"{sum(marks)} s more); {changed} other verdicts changed, {right} hostile ones right."
    ]


def report_disagreements(items: list[Item], found: dict[str, list[dict]], path: Path | None) -> str:
    plain, ours = found["plain"][0]["verdicts"], found["ours"][0]["verdicts"]
    differ = [
        {"answer": extract_answer(text), "gold": gold, "plain": theirs, "ours": mine}
        for (text, gold), theirs, mine in zip(items, plain, ours, strict=True)
        if theirs != mine
    ]
    if path is not None:
        append_jsonl(path, differ)
    return f"- Verdicts differ from the plain loop's on {len(differ)} of {len(items):,} distinct pairs."


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="answers per batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with traces/ and problems/")
    parser.add_argument("--out", type=Path, help="JSONL file for the pairs on which the verdicts differ")
    parser.add_argument("--attacks", action="store_true", help="only the table of bench/attacks.jsonl")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attacks:
        print("\n".join(attack_table()))
        return
    if options.measure:
        print(json.dumps(measure_here(options.measure, json.load(sys.stdin))))
        return
    if options.count < 10 * COMPLETIONS or options.repeats < 1:
        raise InputError(f"--count must be at least {10 * COMPLETIONS} and --repeats at least 1")
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"--data: there is no folder '{options.data}'")
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = options.data or (beside if beside.is_dir() else None)
    say("answers of real models and benchmarks" if folder else "no data folder: answers made from the embedded task")
    distinct = distinct_items(options.count, folder)
    first, found = compare("distinct", distinct, options.repeats)
    second, _ = compare("training", training_items(options.count, distinct), options.repeats)
    starts = [statistics.median(run["start_s"] for run in found[contender]) for contender in CONTENDERS]
    lines = [
        f"{GRADER_VERSION}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; "
        f"start-up, outside the clock: plain {starts[0]:.1f} s, ours {starts[1]:.1f} s.",
        "",
        "| batch | answers | distinct pairs | plain, answers/s | ours, answers/s | ours ÷ plain (goal ≥ 1.8) |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in (first, second)),
        "",
        *hostile_lines(distinct),
        report_disagreements(distinct, found, options.out),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
