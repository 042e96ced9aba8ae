"""The command that runs a row of the table on problems of one's own, to be copied: `secateur prune …`.

It is read back before it is shown, so that what a shell and a command line make of it is what the run measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from eval.report.bars import printable
from eval.table.answers import PUBLISHED_RULES, adaptive_consistency, early_stopping
from eval.table.labels import judge_names
from eval.table.pruning import PUBLISHED, changed_rule, flat_rule, method_name, rule_keys
from eval.table.registry import prunes
from secateur.deepprune.answers import AnswerRule, answer_rule, answer_values
from secateur.deepprune.judges.record import JUDGE_FILE
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.deepprune.rule import ADAPTIVE_RULE, PUBLISHED_RULE
from secateur.deepprune.starting import AllAtOnce
from secateur.deepprune.stopping import Never
from secateur.engines.registry import EngineKeys
from secateur.results import Row
from secateur.runtime.command_lines import PROBLEM, written
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.answers.extraction import ANSWER

_NAMED = {"ahead": "fewest_tokens", "ahead_wait": "shortest_wait", "evidence": "automatic"}
_MEASURED = ("temperature", "top_p", "top_k", "max_tokens", "prompt_family", "system_prompt", "instruction")
_MEASURED_TOO = ("answer_from", "engine", "engine_options", "dtype")
_SAME = {"top_k": 0, "answer_from": ANSWER} | {
    key.name: key.default if key.name == "engine" else {} for key in fields(EngineKeys)
}
"""Values that go without saying, whatever a run measured."""


@dataclass(frozen=True)
class Command:
    """`text` is what a shell takes, "" where there is no such command; `note` says why, or what has to be known."""

    text: str
    note: str


def command_of(row: Row, config: Mapping[str, JSON]) -> Command:
    """`config` is that of the run that measured the row."""
    if row.method == "single":
        return Command("", "One trace needs no command of ours: ask the model once.")
    try:
        keys = _keys(row, config)
    except InputError as error:
        return Command("", printable(str(error), 300))
    if keys is None:
        return Command("", "`secateur prune` has no rule for this method; the table says which others hold.")
    text = written({"model": _model(row, config), **keys, "problem": PROBLEM})
    if not text:
        return Command("", "A path or a text of this run cannot be written on a command line.")
    return Command(
        text, "The traces were imported: write your model in the place of MODEL." if _imported(config) else ""
    )


def _imported(config: Mapping[str, JSON]) -> bool:
    return bool(config.get("imports"))


def _model(row: Row, config: Mapping[str, JSON]) -> str:
    return "MODEL" if _imported(config) else str(config["models"][row.model])


def _keys(row: Row, config: Mapping[str, JSON]) -> dict[str, JSON] | None:
    """All but model and problem; None for a method without a rule. Raises `InputError` for a judge that is gone."""
    rule = _rule_keys(row.method, config)
    if rule is None or row.model not in config.get("models", {}):
        return None
    judge = {} if row.judge is None else {"judge": _judge_folder(row, config)}
    measured = () if _imported(config) else (*_MEASURED, *_MEASURED_TOO)
    told = {key: config[key] for key in measured if config.get(key) is not None}
    return judge | rule | {"n": row.n} | {key: value for key, value in told.items() if _SAME.get(key) != value}


def _judge_folder(row: Row, config: Mapping[str, JSON]) -> str:
    """Raises `InputError` for a judge without a folder, or whose folder is gone where several are told apart."""
    named = config.get("judges", {}).get(row.model, [])
    judges = [named] if isinstance(named, str) else list(named)
    stored = [judge for judge in judges if judge not in UNTRAINED]
    if row.judge in UNTRAINED or not stored:
        raise InputError(f"`secateur prune` takes trained judges, and {row.judge} is none.")
    return stored[0] if len(stored) == 1 else _told_apart(stored, str(row.judge))


def _told_apart(folders: Sequence[str], name: str) -> str:
    """Nothing is fetched for it: a report needs no network."""
    for folder in folders:
        if not (Path(folder) / JUDGE_FILE).is_file():
            raise InputError(f"Which judge it is cannot be told here: {folder} has no {JUDGE_FILE}.")
    found = dict(zip(judge_names(folders), folders, strict=True))
    if name not in found:
        raise InputError(f"Which judge it is cannot be told here: {name} is none of {', '.join(found)}.")
    return found[name]


def _rule_keys(method: str, config: Mapping[str, JSON]) -> dict[str, JSON] | None:
    if method in _NAMED:
        return {"rule": _NAMED[method]}
    if prunes(method):
        return _judged_keys(method, config)
    rule = _answer_rule(method, config)
    values = None if rule is None else answer_values(rule)
    return None if values is None else {"rule": "answers", "rule_values": values}


def _judged_keys(method: str, config: Mapping[str, JSON]) -> dict[str, JSON]:
    values = {key: config[key] for key in rule_keys() if key in config}
    variants = {method_name(name): changes for name, changes in config.get("variants", {}).items()}
    rule = changed_rule(PUBLISHED_RULE, values | variants.get(method, {}), "the run's config")
    named = {PUBLISHED: PUBLISHED_RULE, "adaptive": ADAPTIVE_RULE}
    for name, known in named.items():
        if rule == known:
            return {"rule": "published" if name == PUBLISHED else name}
    plain = flat_rule(PUBLISHED_RULE)
    changed = {key: value for key, value in flat_rule(rule).items() if value != plain[key]}
    return {"rule": "published", "rule_values": changed}


def _answer_rule(method: str, config: Mapping[str, JSON]) -> AnswerRule | None:
    """The rule of a method that looks at finished answers alone."""
    made = {
        "consensus": AnswerRule(Never(), AllAtOnce()),
        "adaptive_consistency": adaptive_consistency(config.get("adaptive_threshold", 0.95)),
        "early_stopping": early_stopping(config.get("early_window", 5)),
        **PUBLISHED_RULES,
        **{f"answers_{name}": answer_rule(v, "the run's config") for name, v in config.get("answers", {}).items()},
    }
    return made.get(method)
