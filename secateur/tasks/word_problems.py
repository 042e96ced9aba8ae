"""Short word problems in English for small language models, with worked solutions to learn the answer's form from.

    Tom bakes 3 trays of 6 rolls and sells 5 of the rolls. How many rolls are left?

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
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from secateur.runtime.errors import InputError
from secateur.tasks.records import Problem

NAMES = ("Tom", "Ann", "Ben", "Mia", "Sam", "Lucy", "Omar", "Nina", "Paul", "Rosa", "Jack", "Emma", "Ravi", "Kate")
LARGEST = 30  # no number of a solution is larger
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


def _form(name: str, text: str, *solution: str, high: int = 9) -> Template:
    return Template(name, text, solution, high)


# fmt: off
TRAINING = (
    _form("apples", "{who} picks {a} apples and {other} picks {b} apples. How many apples do they pick together?",
          "Together they pick [x=a+b] apples."),
    _form("candles", "{who} has {a} candles and burns {b} of them. How many candles are left?",
          "After burning {b}, [x=a-b] candles are left."),
    _form("eggs", "{who}'s boxes hold {a} eggs each. How many eggs do {b} boxes hold?",
          "The boxes hold [x=a*b] eggs.", high=6),
    _form("sweets", "{who} shares {a} sweets equally among {b} children. How many sweets does each child get?",
          "Each child gets [x=a/b] sweets.", high=30),
    _form("older", "{who} is {a} years old. {other} is {b} years older. How old is {other}?",
          "{other} is [x=a+b] years old."),
    _form("pages", "A book has {a} pages. {who} has read {b} of them. How many pages are still to read?",
          "There are [x=a-b] pages still to read.", high=20),
    _form("legs", "{who} builds tables with {a} legs. How many legs do {b} tables have?",
          "The tables have [x=a*b] legs.", high=6),
    _form("teams", "{who} puts {a} players into {b} equal teams. How many players are in a team?",
          "A team has [x=a/b] players.", high=30),
    _form("trays", "{who} bakes {a} trays of {b} rolls and sells {c} of the rolls. How many rolls are left?",
          "{who} bakes [x=a*b] rolls.", "After selling {c}, [y=x-c] rolls are left.", high=6),
    _form("bus",
          "{who}'s bus starts with {a} people. Then {b} get on and {c} get off. How many people are on the bus?",
          "After {b} get on there are [x=a+b] people.", "After {c} get off there are [y=x-c] people."),
    _form("reading", "{who} reads {a} pages a day for {b} days, and then {c} more pages. How many pages is that?",
          "In {b} days {who} reads [x=a*b] pages.", "With {c} more that is [y=x+c] pages.", high=6),
    _form("marbles", "{who} has {a} marbles. {other} has {b} more. How many marbles do they have together?",
          "{other} has [x=a+b] marbles.", "Together they have [y=a+x] marbles."),
    _form("wages", "{who} earns {a} dollars an hour for {b} hours and spends {c} dollars. How many dollars remain?",
          "{who} earns [x=a*b] dollars.", "After spending {c}, [y=x-c] dollars remain.", high=6),
    _form("shelves", "{who} has {a} shelves with {b} books each and {c} books on the floor. How many books is that?",
          "The shelves hold [x=a*b] books.", "With those on the floor there are [y=x+c] books.", high=6),
    _form("stamps", "{who} has {a} stamps, buys {b} and gets {c} from {other}. How many stamps does {who} have now?",
          "After buying there are [x=a+b] stamps.", "With those of {other} there are [y=x+c] stamps."),
    _form("rope", "A rope is {a} meters long. {who} cuts off {b} pieces of {c} meters. How many meters are left?",
          "The pieces take [x=b*c] meters.", "Of the rope [y=a-x] meters are left.", high=30),
    _form("groups", "{who} puts {a} girls and {b} boys into {c} equal groups. How many children has a group?",
          "There are [x=a+b] children.", "A group has [y=x/c] children."),
    _form("toys", "{who} has {a} boxes of {b} toys and gives away {c} boxes. How many toys does {who} still have?",
          "{who} keeps [x=a-c] boxes.", "They hold [y=x*b] toys.", high=7),
    _form("tickets",
          "An adult pays {a} dollars, a child {b}. How many dollars do {c} adults and {who}, a child, pay?",
          "The adults pay [x=c*a] dollars.", "With the child they pay [y=x+b] dollars.", high=6),
    _form("water", "A tank holds {a} liters. {who} takes {b} liters out and pours {c} in. How many liters are there?",
          "After taking {b} out there are [x=a-b] liters.", "After pouring there are [y=x+c] liters.", high=15),
)

DEVELOPMENT = (
    _form("kites", "{who} has {a} kites and {other} has {b} kites. How many kites do they have in all?",
          "In all they have [x=a+b] kites."),
    _form("plums", "There are {a} plums in a bowl. {who} eats {b}. How many plums remain?",
          "After eating {b}, [x=a-b] plums remain."),
    _form("wheels", "{who} draws cars with {a} wheels. How many wheels do {b} cars have?",
          "The cars have [x=a*b] wheels.", high=6),
    _form("parking", "{who} sees {a} rows of {b} cars. Then {c} of the cars drive away. How many cars stay?",
          "At first there are [x=a*b] cars.", "After {c} drive away, [y=x-c] cars stay.", high=6),
    _form("fishing", "{who} catches {a} fish, {other} catches {b}, and {c} are thrown back. How many fish are left?",
          "They catch [x=a+b] fish.", "After throwing {c} back, [y=x-c] fish are left."),
    _form("running",
          "{who} runs {a} miles a day for {b} days, {other} runs {c} miles. How many miles is that in all?",
          "{who} runs [x=a*b] miles.", "In all that is [y=x+c] miles.", high=6),
)

TESTING = (
    _form("shells", "{who} finds {a} shells and {other} finds {b} shells. How many shells do they find in all?",
          "In all they find [x=a+b] shells.", high=15),
    _form("balloons", "{who} has {a} balloons. {b} of them fly away. How many balloons does {who} have left?",
          "After {b} fly away, {who} has [x=a-b] balloons left.", high=20),
    _form("petals", "{who} picks flowers with {a} petals. How many petals do {b} flowers have?",
          "The flowers have [x=a*b] petals.", high=7),
    _form("bricks", "{who}'s truck carries {a} stacks of {b} bricks. {c} bricks fall off. How many bricks arrive?",
          "The truck carries [x=a*b] bricks.", "After {c} fall off, [y=x-c] bricks arrive.", high=7),
    _form("birds", "{who} sees {a} birds on a tree and {b} more come. Then {c} fly away. How many birds are left?",
          "There are [x=a+b] birds.", "After {c} fly away, [y=x-c] birds are left.", high=12),
    _form("cards", "{who} has {a} cards, loses {b} of them and then wins {c}. How many cards does {who} have now?",
          "After losing there are [x=a-b] cards.", "After winning there are [y=x+c] cards.", high=15),
    _form("seeds", "{who} puts {a} seeds into each of {b} pots and {c} into a big pot. How many seeds is that?",
          "The small pots take [x=a*b] seeds.", "With the big pot that is [y=x+c] seeds.", high=7),
    _form("songs",
          "{who} knows {a} songs, {other} knows {b}, and {c} are the same. How many different songs is that?",
          "Counted twice there are [x=a+b] songs.", "Without the same ones there are [y=x-c] songs.", high=12),
)
# fmt: on

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
_TRIES = 5000


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
        """Each step, such as "3 * 6 = 18"."""
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


def _fresh(template: Template, buckets: range, seen: Set[str], rng: random.Random) -> _Drawn:
    """Raises `InputError` when the template has hardly any new problems left."""
    for _ in range(_TRIES):
        drawn = _draw(template, rng)
        if drawn.text not in seen and _bucket(drawn.text) in buckets:
            return drawn
    raise InputError(f"the word problems have no more than {len(seen)} problems of this split; lower the number")


def _iter_drawn(split: str, seed: int) -> Iterator[_Drawn]:
    """Every template once per cycle, in a new order each time, as long as there are new problems."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of the word problems; valid splits: {', '.join(SPLITS)}")
    templates, buckets = SPLITS[split]
    rng, seen = random.Random(f"words/{split}/{seed}"), set[str]()
    while True:
        for template in rng.sample(templates, len(templates)):
            drawn = _fresh(template, buckets, seen, rng)
            seen.add(drawn.text)
            yield drawn


def make_problems(split: str, count: int, seed: int = 0) -> list[Problem]:
    """The first `count` problems of a split; `group` is the template. Another `seed` draws others of the split."""
    return [problem for problem, _ in _numbered(split, count, seed)]


def make_solutions(count: int, seed: int = 0) -> list[tuple[Problem, str]]:
    """Problems of the split "tune", each with a worked solution that ends in its boxed answer."""
    rng = random.Random(f"words/solutions/{seed}")
    return [(problem, _solution(drawn, rng)) for problem, drawn in _numbered("tune", count, seed)]


def _numbered(split: str, count: int, seed: int) -> list[tuple[Problem, _Drawn]]:
    prefix = f"words-{split}" if seed == 0 else f"words-{split}-s{seed}"
    drawn = zip(range(count), _iter_drawn(split, seed), strict=False)
    return [(Problem(f"{prefix}-{i:05d}", one.text, str(one.answer), one.template.name), one) for i, one in drawn]


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
