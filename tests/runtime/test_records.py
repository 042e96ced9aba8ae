"""Typed records on disk: read as they were written, and refused by name where they are something else."""

import contextlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, model_fingerprint, read_json, write_json
from secateur.runtime.records import (
    check_start_model,
    read_record,
    without_checksum,
    write_record,
    write_start_model,
)


@dataclass(frozen=True)
class Part:
    bounds: tuple[float, float]


@dataclass(frozen=True)
class Whole:
    parts: Mapping[str, Part]
    settings: Mapping[str, JSON]
    note: str | None = None


RECORD = Whole({"a": Part((0.5, math.inf))}, {"n": [1, {"deep": None}]})


def test_a_record_is_read_as_it_was_written(tmp_path) -> None:
    write_record(tmp_path / "r.json", RECORD, 3)
    assert read_json(tmp_path / "r.json")["format"] == 3
    assert read_record(tmp_path / "r.json", Whole, 3, "do it again") == RECORD


def test_figures_that_are_no_numbers_survive(tmp_path) -> None:
    write_record(tmp_path / "r.json", Part((math.nan, -math.inf)), 1)
    low, high = read_record(tmp_path / "r.json", Part, 1, "").bounds
    assert math.isnan(low) and high == -math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"r\.json: has format 2, this version reads 3; do it again"),
        ({"format": None}, "has format None"),
        ({"parts": {"a": {"bounds": [1, "x"]}}}, r"r\.json: parts\.a\.bounds\.1: .*it is no Whole of this program"),
        ({"settings": []}, r"r\.json: settings: "),
    ],
)
def test_anything_else_is_refused_with_file_key_and_remedy(tmp_path, changes, message) -> None:
    write_record(tmp_path / "r.json", RECORD, 3)
    write_json(tmp_path / "r.json", without_checksum(read_json(tmp_path / "r.json"), "", "") | changes)
    with pytest.raises(InputError, match=message):
        read_record(tmp_path / "r.json", Whole, 3, "do it again")


@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_what_is_no_object_is_refused(tmp_path, content) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match=r"r\.json: "):
        read_record(tmp_path / "r.json", Whole, 3, "")


@given(st.data())
def test_a_flipped_bit_is_the_same_record_or_refused(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("flipped") / "r.json"
    write_record(path, RECORD, 3)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_record(path, Whole, 3, "do it again") == RECORD


def test_other_weights_at_the_path_of_a_training_are_named(tmp_path, tiny_model) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    write_start_model(tmp_path, str(model))
    check_start_model(tmp_path, str(model))
    (model / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"begun with other weights in key 'model': \w{16} then, \w{16} in .*"):
        check_start_model(tmp_path, str(model))


def test_a_model_is_known_by_its_weights_and_not_by_what_a_trainer_left_beside_them(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    known = model_fingerprint(tmp_path)
    (tmp_path / "training_args.bin").write_text("arguments")
    assert model_fingerprint(tmp_path) == known
    (tmp_path / "pytorch_model.bin").write_text("weights")
    assert model_fingerprint(tmp_path) != known
