"""Rules as flat keys: how a `PruneRule` is written in a config, varied in a sweep, and given a name."""

import dataclasses
from collections.abc import Mapping
from typing import get_type_hints

from secateur.deepprune.rule import PruneRule
from secateur.runtime.config import check_types, reject_unknown
from secateur.runtime.files import JSON

PUBLISHED = "deepprune"
"""The method that follows the rule keys of a config; named variants of it are called `deepprune_<name>`."""


def method_name(variant: str) -> str:
    return f"{PUBLISHED}_{variant}"


def rule_keys() -> dict[str, str | None]:
    """Every value that makes up a `PruneRule`, and the part of it that has the value; None for its own."""
    rule, keys = PruneRule(), {}
    for part in dataclasses.fields(rule):
        inner = getattr(rule, part.name)
        if dataclasses.is_dataclass(inner):
            keys |= {field.name: part.name for field in dataclasses.fields(inner)}
        else:
            keys[part.name] = None
    return keys


def rule_fields() -> "list[tuple[str, type, dataclasses.Field]]":
    """The same values as fields of a config: (name, type, default)."""
    rule, fields = PruneRule(), []
    for key, name in rule_keys().items():
        part = rule if name is None else getattr(rule, name)
        fields.append((key, get_type_hints(type(part))[key], dataclasses.field(default=getattr(part, key))))
    return fields


RuleKeys = dataclasses.make_dataclass("RuleKeys", rule_fields(), kw_only=True)
"""The values of a rule as keys of a config; what they mean is said in secateur/deepprune/rule.py."""


def changed_rule(rule: PruneRule, values: Mapping[str, JSON], source: str) -> PruneRule:
    """`rule` with other values. Raises `InputError`, naming `source` and the key, for an unknown key, a wrong type or
    an impossible value."""
    keys = rule_keys()
    reject_unknown(list(values), list(keys), source)
    changes: dict[str, object] = {}
    for name in {keys[key] for key in values}:
        part = rule if name is None else getattr(rule, name)
        mine = check_types(type(part), {key: v for key, v in values.items() if keys[key] == name}, source)
        changes |= mine if name is None else {name: dataclasses.replace(part, **mine)}
    return dataclasses.replace(rule, **changes)


def flat_rule(rule: PruneRule) -> dict[str, JSON]:
    """All values of the rule in one mapping."""
    return {key: getattr(getattr(rule, part) if part else rule, key) for key, part in rule_keys().items()}
