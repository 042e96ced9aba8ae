"""combined.json of a run on several benchmarks: the rows of all, and of all together. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.table.advice import tabulate
from eval.table.config import CombinedConfig
from eval.table.grid import Cell, together
from eval.table.settings import table_settings
from secateur.tasks.answers.equality import GRADER_VERSION

Parts = Mapping[str, Mapping[str, Any]]
"""Benchmark → combined.json of its own folder."""


def join_benchmarks(config: CombinedConfig, parts: Parts, cells: Mapping[str, Sequence[Cell]]) -> dict[str, Any]:
    """The rows of every benchmark, after those of all together where there are several; ids then begin with the
    benchmark."""
    tables = dict(parts)
    if len(parts) > 1:
        all_cells = [together(same_n) for same_n in zip(*cells.values(), strict=True)]
        whole = tabulate(all_cells, config.token_prices, config.tolerance_points)
        named = {all_cells[0].benchmark: whole} | tables
        tables = {name: prefixed(table, f"{name}:") for name, table in named.items()}
    first = next(iter(parts.values()))
    recommendations = [table["recommendation"] for table in tables.values()]
    return {
        "rows": [row for table in tables.values() for row in table["rows"]],
        "differences": [difference for table in tables.values() for difference in table["differences"]],
        "recommendation": recommendations[0],
        "recommendations": recommendations,
        "live_equals_replay": _live_together(parts),
        "live": [entry for part in parts.values() for entry in part["live"] or []] or None,
        "wall_s": {name: _added([part["wall_s"][name] for part in parts.values()]) for name in config.models},
        "parameters": first["parameters"],
        **about(config),
        "versions": first["versions"],
    }


def about(config: CombinedConfig) -> dict[str, Any]:
    """What combined.json says about the run itself."""
    return {
        "n": config.sizes,
        "folders": config.folders,
        "settings": table_settings(config.resolved(), GRADER_VERSION),
        "config": config.resolved(),
    }


def prefixed(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The rows and the recommendation of one benchmark with `prefix` before every row's id."""
    rows = [row | {"id": prefix + row["id"]} for row in table["rows"]]
    advice = dict(table["recommendation"])
    advice["reference"] = prefix + advice["reference"]
    advice["overall"] = _named(prefix, advice["overall"])
    for key in ("frontier_tokens", "frontier_wall"):
        advice[key] = [prefix + name for name in advice[key]]
    advice["per_model"] = {model: _choice(prefix, choice) for model, choice in advice["per_model"].items()}
    return {"rows": rows, "differences": table["differences"], "recommendation": advice}


def _choice(prefix: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    considered = [entry | {"id": prefix + entry["id"]} for entry in choice["considered"]]
    return {"recommended": _named(prefix, choice["recommended"]), "considered": considered}


def _named(prefix: str, row_id: str | None) -> str | None:
    return None if row_id is None else prefix + row_id


def _live_together(parts: Parts) -> dict[str, Any] | None:
    found = {name: part["live_equals_replay"] for name, part in parts.items() if part["live_equals_replay"]}
    if not found:
        return None
    unequal = {f"{name}: {key}": why for name, live in found.items() for key, why in live["unequal"].items()}
    counts = {key: sum(live[key] for live in found.values()) for key in ("problems", "equal")}
    return counts | {"unequal": unequal, "exact": all(live["exact"] for live in found.values())}


def _added(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for one in seconds for kind in one)
    return {kind: round(sum(one.get(kind, 0.0) for one in seconds), 3) for kind in kinds}
