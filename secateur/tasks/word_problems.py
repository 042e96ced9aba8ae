"""Short word problems in English for small language models, with worked solutions to learn the answer's form from.

    Tom bakes 3 trays of 8 rolls and sells 5 of them. How many rolls are left?

A problem is a template with names and numbers drawn into it. The splits share no template where that matters:
training, development and testing have templates of their own, so what is measured is not the memory of a form. Within
one set of templates, a problem belongs to a split by the hash of its text.

`make_solution` writes the worked solutions of the supervised tuning. They come in three lengths: short, explained
(the same steps, introduced) and checked (the steps once more at the end). What length pruning finds to cut on this
task is partly the last two, as it is partly the checks of a reasoning model.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from secateur.runtime.errors import InputError
from secateur.tasks.records import Problem

NAMES = ("Tom", "Ann", "Ben", "Mia", "Sam", "Lucy", "Omar", "Nina", "Paul", "Rosa", "Jack", "Emma", "Ravi", "Kate")
LARGEST = 60  # no number of a solution is larger
_STEP = re.compile(r"\[(?P<result>[v-z])=(?P<left>\w+)(?P<op>[-+*/])(?P<right>\w+)\]")
_SLOT = re.compile(r"\{([a-e])\}")


@dataclass(frozen=True)
class Template:
    """A form of problem. `{a}`-`{e}` are numbers, `{who}` and `{other}` names; in the sentences of the solution
    `[x=a*b]` is a step of it: what it calculates, and how its result is called in later steps."""

    name: str
    text: str
    solution: tuple[str, ...]
    high: int = 9  # numbers are drawn from 2 to here

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_SLOT.findall(self.text)))


def _template(name: str, text: str, *solution: str, high: int = 9) -> Template:
    return Template(name, text, solution, high)


TRAINING = (
    _template(
        "trays",
        "{who} bakes {a} trays of {b} rolls and sells {c} of them. How many rolls are left?",
        "{who} bakes [x=a*b] rolls.",
        "After selling {c}, [y=x-c] rolls are left.",
    ),
    _template(
        "apples",
        "{who} picks {a} apples in the morning and {b} in the afternoon, and gives {c} to {other}. How many apples "
        "does {who} keep?",
        "{who} picks [x=a+b] apples.",
        "After giving {c} away, {who} keeps [y=x-c] apples.",
        high=20,
    ),
    _template(
        "pens",
        "A pen costs {a} dollars and a notebook costs {b} dollars. {who} buys {c} pens and {d} notebooks. How many "
        "dollars does {who} pay?",
        "The pens cost [x=c*a] dollars.",
        "The notebooks cost [y=d*b] dollars.",
        "Together that is [z=x+y] dollars.",
    ),
    _template(
        "bus",
        "A bus starts with {a} people. At the first stop {b} get on and at the second stop {c} get off. How many "
        "people are on the bus now?",
        "After the first stop there are [x=a+b] people.",
        "After the second stop there are [y=x-c] people.",
        high=20,
    ),
    _template(
        "reading",
        "{who} reads {a} pages every day for {b} days. The book has {c} pages more than that. How many pages has it?",
        "{who} reads [x=a*b] pages.",
        "The book has [y=x+c] pages.",
    ),
    _template(
        "marbles",
        "{who} has {a} marbles. {other} has {b} more than {who}. How many marbles do they have together?",
        "{other} has [x=a+b] marbles.",
        "Together they have [y=a+x] marbles.",
        high=20,
    ),
    _template(
        "wages",
        "{who} earns {a} dollars an hour, works {b} hours and spends {c} dollars on lunch. How many dollars remain?",
        "{who} earns [x=a*b] dollars.",
        "After lunch [y=x-c] dollars remain.",
    ),
    _template(
        "shelves",
        "There are {a} shelves with {b} books each and {c} more books on the table. How many books are there?",
        "The shelves hold [x=a*b] books.",
        "With those on the table there are [y=x+c] books.",
    ),
    _template(
        "sweets",
        "{who} shares {a} sweets equally among {b} children, and then gives each {c} more. How many sweets does each "
        "child have?",
        "Each child first gets [x=a/b] sweets.",
        "With {c} more, each child has [y=x+c] sweets.",
        high=20,
    ),
    _template(
        "eggs",
        "{who}'s hens lay {a} eggs a day. How many eggs are there after {b} days if {c} of them break?",
        "The hens lay [x=a*b] eggs.",
        "After {c} break, there are [y=x-c] eggs.",
    ),
    _template(
        "stamps",
        "{who} has {a} stamps, buys {b} more and then gets {c} from {other}. How many stamps does {who} have now?",
        "After buying there are [x=a+b] stamps.",
        "With those of {other} there are [y=x+c] stamps.",
        high=20,
    ),
    _template(
        "rope",
        "A rope is {a} meters long. {who} cuts off {b} pieces of {c} meters each. How many meters are left?",
        "The pieces take [x=b*c] meters.",
        "Of the rope [y=a-x] meters are left.",
        high=30,
    ),
    _template(
        "class",
        "A class has {a} girls and {b} boys. They form groups of {c}. How many groups are there?",
        "The class has [x=a+b] children.",
        "They form [y=x/c] groups.",
        high=20,
    ),
    _template(
        "toys",
        "{who} has {a} boxes with {b} toys each and gives {c} boxes to {other}. How many toys does {who} still have?",
        "{who} keeps [x=a-c] boxes.",
        "They hold [y=x*b] toys.",
    ),
    _template(
        "tickets",
        "A ticket costs {a} dollars for an adult and {b} dollars for a child. How many dollars do {c} adults and one "
        "child pay?",
        "The adults pay [x=c*a] dollars.",
        "With the child they pay [y=x+b] dollars.",
    ),
    _template(
        "flowers",
        "{who} plants {a} rows of {b} flowers. {c} rows die. How many flowers are alive?",
        "There are [x=a-c] rows alive.",
        "They hold [y=x*b] flowers.",
    ),
    _template(
        "saving",
        "{who} saves {a} dollars a week. How many dollars are missing for a game of {b} dollars after {c} weeks?",
        "{who} saves [x=a*c] dollars.",
        "So [y=b-x] dollars are missing.",
        high=30,
    ),
    _template(
        "ages",
        "{who} is {a} years old. {other} is {b} years younger. How old will {other} be in {c} years?",
        "{other} is [x=a-b] years old now.",
        "In {c} years {other} will be [y=x+c] years old.",
        high=20,
    ),
    _template(
        "water",
        "A tank holds {a} liters. Each of {b} cows drinks {c} liters, and then {d} liters are filled in. How many "
        "liters are in the tank?",
        "The cows drink [x=b*c] liters.",
        "That leaves [y=a-x] liters.",
        "After filling there are [z=y+d] liters.",
        high=30,
    ),
    _template(
        "beads",
        "{who} makes {a} chains with {b} red beads and {c} blue beads each. How many beads does {who} need?",
        "A chain has [x=b+c] beads.",
        "For all chains {who} needs [y=a*x] beads.",
    ),
)

DEVELOPMENT = (
    _template(
        "parking",
        "A parking lot has {a} levels with {b} cars each. Then {c} cars drive away. How many cars stay?",
        "At first there are [x=a*b] cars.",
        "After {c} drive away, [y=x-c] cars stay.",
    ),
    _template(
        "fishing",
        "{who} catches {a} fish, {other} catches {b} fish, and {c} are thrown back. How many fish are left?",
        "They catch [x=a+b] fish.",
        "After throwing {c} back, [y=x-c] fish are left.",
        high=20,
    ),
    _template(
        "cups",
        "{who} fills {a} jugs with {b} cups of juice each and adds {c} cups of water to each jug. How many cups of "
        "drink are there?",
        "A jug holds [x=b+c] cups.",
        "All jugs hold [y=a*x] cups.",
    ),
    _template(
        "chairs",
        "{a} chairs stand in rows of {b}. {who} adds {c} rows. How many rows are there?",
        "At first there are [x=a/b] rows.",
        "With the new ones there are [y=x+c] rows.",
        high=30,
    ),
    _template(
        "running",
        "{who} runs {a} kilometers on each of {b} days, {other} runs {c} kilometers in all. How many kilometers do "
        "they run together?",
        "{who} runs [x=a*b] kilometers.",
        "Together they run [y=x+c] kilometers.",
    ),
    _template(
        "coins",
        "{who} has {a} coins and {other} has {b} fewer. How many coins do both have?",
        "{other} has [x=a-b] coins.",
        "Both have [y=a+x] coins.",
        high=20,
    ),
)

TESTING = (
    _template(
        "bricks",
        "A truck carries {a} stacks of {b} bricks. {c} bricks fall off. How many bricks arrive?",
        "The truck carries [x=a*b] bricks.",
        "After {c} fall off, [y=x-c] bricks arrive.",
    ),
    _template(
        "birds",
        "{a} birds sit on a tree and {b} more come. Later {c} fly away. How many birds are on the tree?",
        "There are [x=a+b] birds.",
        "After {c} fly away, [y=x-c] birds are on the tree.",
        high=20,
    ),
    _template(
        "lamps",
        "A lamp costs {a} dollars and a bulb costs {b} dollars. {who} buys {c} lamps, each with a bulb. How many "
        "dollars does {who} spend?",
        "A lamp with a bulb costs [x=a+b] dollars.",
        "All together cost [y=c*x] dollars.",
    ),
    _template(
        "cards",
        "{who} has {a} cards, loses {b} of them and then wins {c}. How many cards does {who} have now?",
        "After losing there are [x=a-b] cards.",
        "After winning there are [y=x+c] cards.",
        high=20,
    ),
    _template(
        "pizza",
        "{who} orders {a} pizzas with {b} slices each for {c} friends. Everyone eats the same number of slices and "
        "nothing is left. How many slices does each friend eat?",
        "There are [x=a*b] slices.",
        "Each friend eats [y=x/c] slices.",
    ),
    _template(
        "snow",
        "{who} shovels {a} meters of snow an hour. The way is {b} meters long. How many meters are left after {c} "
        "hours?",
        "{who} shovels [x=a*c] meters.",
        "So [y=b-x] meters are left.",
        high=30,
    ),
    _template(
        "songs",
        "{who} knows {a} songs, {other} knows {b} songs, and {c} of them are the same. How many different songs do "
        "they know?",
        "Counted twice there are [x=a+b] songs.",
        "Without the same ones there are [y=x-c] songs.",
        high=20,
    ),
    _template(
        "seeds",
        "{who} puts {a} seeds into each of {b} pots and {c} seeds into a big pot. How many seeds does {who} use?",
        "The pots take [x=a*b] seeds.",
        "With the big pot {who} uses [y=x+c] seeds.",
    ),
)

# split → its templates and its hash buckets among the splits of the same templates
SPLITS = {
    "tune": (TRAINING, range(0, 3)),
    "train": (TRAINING, range(3, 6)),
    "judge_train": (TRAINING, range(6, 8)),
    "validation": (DEVELOPMENT, range(0, 4)),
    "judge_dev": (DEVELOPMENT, range(4, 8)),
    "test": (TESTING, range(0, 2)),
    "judge_test": (TESTING, range(2, 4)),
    "combined": (TESTING, range(4, 8)),
}
_BUCKETS = 8


@dataclass(frozen=True)
class _Drawn:
    """A template with its names and numbers; `results`: letter of a step → its value, in order."""

    template: Template
    names: Mapping[str, str]
    numbers: Mapping[str, int]
    results: Mapping[str, int]

    @property
    def text(self) -> str:
        return self.template.text.format(**self.names, **self.numbers)

    @property
    def answer(self) -> int:
        return list(self.results.values())[-1]

    @property
    def sums(self) -> list[str]:
        """Each step, such as "3 * 8 = 24"."""
        matches = [match for sentence in self.template.solution for match in _STEP.finditer(sentence)]
        return [self._sum(match) for match in matches]

    def sentences(self) -> list[str]:
        return [_STEP.sub(self._sum, one).format(**self.names, **self.numbers) for one in self.template.solution]

    def _sum(self, match: re.Match[str]) -> str:
        values = {**self.numbers, **self.results}
        left, right, result = (values[match[part]] for part in ("left", "right", "result"))
        return f"{left} {match['op']} {right} = {result}"


def _results(template: Template, numbers: Mapping[str, int]) -> dict[str, int] | None:
    """The value of each step; None where one is no whole number from 1 to `LARGEST`."""
    values = dict(numbers)
    for match in (found for sentence in template.solution for found in _STEP.finditer(sentence)):
        left, right = values[match["left"]], values[match["right"]]
        if match["op"] == "/" and left % right:
            return None
        value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[match["op"]]
        if not 1 <= value <= LARGEST:
            return None
        values[match["result"]] = value
    return {letter: value for letter, value in values.items() if letter not in numbers}


def _draw(template: Template, rng: random.Random) -> _Drawn:
    who, other = rng.sample(NAMES, 2)
    while True:
        numbers = {letter: rng.randint(2, template.high) for letter in template.letters}
        results = _results(template, numbers)
        if results is not None:
            return _Drawn(template, {"who": who, "other": other}, numbers, results)


def _bucket(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _BUCKETS


def _iter_drawn(split: str, seed: int) -> Iterator[_Drawn]:
    """Endless; every template once per cycle, in a new order each time."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of the word problems; valid splits: {', '.join(SPLITS)}")
    templates, buckets = SPLITS[split]
    rng, seen = random.Random(f"words/{split}/{seed}"), set[str]()
    while True:
        for template in rng.sample(templates, len(templates)):
            drawn = _draw(template, rng)
            while drawn.text in seen or _bucket(drawn.text) not in buckets:
                drawn = _draw(template, rng)
            seen.add(drawn.text)
            yield drawn


def make_problems(split: str, count: int, seed: int = 0) -> list[Problem]:
    """The first `count` problems of a split; `group` is the template. Another `seed` draws others of the split."""
    prefix = f"words-{split}" if seed == 0 else f"words-{split}-s{seed}"
    drawn = zip(range(count), _iter_drawn(split, seed), strict=False)
    return [Problem(f"{prefix}-{i:05d}", one.text, str(one.answer), one.template.name) for i, one in drawn]


def make_solutions(count: int, seed: int = 0) -> list[tuple[Problem, str]]:
    """Problems of the split "tune", each with a worked solution that ends in its boxed answer."""
    rng = random.Random(f"words/solutions/{seed}")
    problems = make_problems("tune", count, seed)
    return [(problem, _solution(one, rng)) for problem, one in zip(problems, _iter_drawn("tune", seed), strict=False)]


_OPENINGS = ("Let me think step by step.", "Let us work this out.", "I will solve this step by step.")
_ORDER = ("First,", "Then,", "After that,")
_CHECKS = ("Let me check that again:", "Wait, let me verify this:", "To be sure, once more:")
_GOOD = ("That is right.", "This fits.", "Yes, that is correct.")
_ENDS = ("The answer is", "So the answer is", "Therefore the answer is")


def _solution(drawn: _Drawn, rng: random.Random) -> str:
    """A third each: short, explained, checked."""
    sentences, length = drawn.sentences(), rng.randrange(3)
    if length > 0:
        known = _listed([str(drawn.numbers[letter]) for letter in drawn.template.letters])
        steps = [f"{word} {_lower(one)}" for word, one in zip(_ORDER, sentences, strict=False)]
        sentences = [rng.choice(_OPENINGS), f"The problem gives the numbers {known}.", *steps]
    if length > 1:
        sentences += [f"{rng.choice(_CHECKS)} {_listed(drawn.sums)}.", rng.choice(_GOOD)]
    return " ".join([*sentences, f"{rng.choice(_ENDS)} \\boxed{{{drawn.answer}}}."])


def _lower(sentence: str) -> str:
    """Its first word begins small, unless it is a name."""
    return sentence if sentence.startswith(NAMES) else sentence[0].lower() + sentence[1:]


def _listed(parts: Sequence[str]) -> str:
    """
    >>> _listed(["1", "2", "3"])
    '1, 2 and 3'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
