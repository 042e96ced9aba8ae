"""A folder that was killed anywhere goes on where it stood: no trace lost that was announced, none stored twice."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from secateur.engines.trace_folder import CutVector, TraceFolderWriter, read_trace_folder
from secateur.runtime.errors import InputError
from secateur.tasks.records import Trace

SETTINGS = {"model": "a", "sampling": {"temperature": 1.0, "layers": (0, 1)}}


def make_trace(problem: str = "p/1 ä", sample: int = 0) -> Trace:
    return Trace(problem, "1 + 1", "2", sample, f"text {sample}\nü", "a", (1, 2, 3), 3, "stop")


def make_states(sample: int) -> torch.Tensor:
    return torch.full((4, 2, 3), float(sample), dtype=torch.float16)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        for sample in (3, 1, 2):
            writer.add(make_trace(sample=sample), cut_tokens=sample, states=make_states(sample), group="sums")
        writer.add(make_trace("p2"))
    first, second = read_trace_folder(tmp_path)
    if first.problem.id == "p2":
        first, second = second, first
    assert (first.problem.id, first.problem.answer, first.problem.group) == ("p/1 ä", "2", "sums")
    assert [stored.trace for stored in first.traces] == [make_trace(sample=sample) for sample in (1, 2, 3)]
    for stored in first.traces:
        assert stored.cut_tokens == stored.trace.sample
        assert torch.equal(stored.load_states(), make_states(stored.trace.sample))
    assert second.traces[0].cut_tokens is None
    with pytest.raises(InputError, match="stored without states"):
        second.traces[0].load_states()


def test_confidences_are_kept_beside_states_or_alone(tmp_path: Path) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace(sample=0), states=make_states(0), confidences=(1.5, 12.345, 3))
        writer.add(make_trace(sample=1), confidences=[7.0, 8.0, 9.0])
        writer.add(make_trace(sample=2), confidences=())
    both, alone, none = read_trace_folder(tmp_path)[0].traces
    assert both.load_confidences().dtype == "float16"
    assert both.load_confidences().tolist() == pytest.approx([1.5, 12.345, 3], rel=1e-3)
    assert torch.equal(both.load_states(), make_states(0))
    assert alone.load_confidences().tolist() == [7, 8, 9] and alone.states_path is None
    with pytest.raises(InputError, match=r"without token confidences; sample anew .* `top_logprobs: 20`"):
        none.load_confidences()


def test_a_confidence_belongs_to_each_token(tmp_path: Path) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer, pytest.raises(ValueError, match="2 confidences"):
        writer.add(make_trace(), confidences=(1.0, 2.0))


def test_any_torn_tail_is_mended_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with TraceFolderWriter(whole, SETTINGS) as writer:
        for sample in range(3):
            writer.add(make_trace(sample=sample))
    content = (whole / "traces-rank0.jsonl").read_bytes()
    for length in range(0, len(content), 7):
        folder = tmp_path / str(length)
        shutil.copytree(whole, folder)
        (folder / "traces-rank0.jsonl").write_bytes(content[:length])
        survivors = content[:length].count(b"\n")
        if survivors:
            torn = contents(folder)
            assert len(read_trace_folder(folder)[0].traces) in (survivors, survivors + 1)
            assert contents(folder) == torn, "reading mends nothing: another process may be writing"
        with TraceFolderWriter(folder, SETTINGS) as writer:
            assert writer.done == {("p/1 ä", sample) for sample in range(survivors)}
            for sample in range(survivors, 3):
                writer.add(make_trace(sample=sample))
        assert (folder / "traces-rank0.jsonl").read_bytes() == content


def test_states_are_on_disk_before_their_line(tmp_path: Path) -> None:
    writer = TraceFolderWriter(tmp_path, SETTINGS)
    for sample in range(70):
        writer.add(make_trace(sample=sample), states=make_states(sample))
    stored = read_trace_folder(tmp_path)[0].traces
    assert len(stored) == 64, "a full lot was written, the rest waits"
    assert torch.equal(stored[-1].load_states(), make_states(63))
    # killed here: the waiting traces are not announced and are sampled again
    with TraceFolderWriter(tmp_path, SETTINGS) as again:
        assert len(again.done) == 64
        for sample in range(64, 70):
            again.add(make_trace(sample=sample), states=make_states(sample))
    assert [s.load_states()[0, 0, 0].item() for s in read_trace_folder(tmp_path)[0].traces] == list(range(70))


def test_nothing_is_stored_twice(tmp_path: Path) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace())
        with pytest.raises(InputError, match="is there already"):
            writer.add(make_trace())
    with TraceFolderWriter(tmp_path, SETTINGS, rank=1) as other, pytest.raises(InputError, match="is there already"):
        other.add(make_trace())
    shutil.copy(tmp_path / "traces-rank0.jsonl", tmp_path / "traces-rank2.jsonl")
    with pytest.raises(InputError, match="stored twice"):
        read_trace_folder(tmp_path)


@settings(max_examples=60)
@given(st.data())
def test_another_letter_in_a_trace_is_the_same_trace_or_refused(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    with TraceFolderWriter(folder, SETTINGS) as writer:
        for sample in range(2):
            writer.add(make_trace(sample=sample))
    whole, path = read_trace_folder(folder), folder / "traces-rank0.jsonl"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 2))] ^= 1 << data.draw(st.integers(0, 6))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_trace_folder(folder) == whole


@pytest.mark.parametrize("what", ["states", "confidences"])
def test_another_number_in_a_tensor_of_a_trace_is_named(tmp_path: Path, what) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace(), states=make_states(0), confidences=[0.5] * make_trace().n_tokens)
    [path] = (tmp_path / "states").iterdir()
    with safe_open(path, "pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    tensors["0" if what == "states" else "confidences-0"].view(-1)[0] += 1
    save_file(tensors, path)
    stored = read_trace_folder(tmp_path)[0].traces[0]
    with pytest.raises(InputError, match=r"sample 0 were changed since; collect the traces again"):
        stored.load_states() if what == "states" else stored.load_confidences()


def test_ranks_write_side_by_side(tmp_path: Path) -> None:
    for rank in range(2):
        with TraceFolderWriter(tmp_path, SETTINGS, rank) as writer:
            writer.add(make_trace(sample=rank), states=make_states(rank))
    assert len(read_trace_folder(tmp_path)[0].traces) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "b", "sampling": {"temperature": 1.0, "layers": [0, 1]}}, "key 'model' is 'a' there and 'b' now"),
        (
            {"model": "a", "sampling": {"temperature": 0.6, "layers": [0, 1]}},
            r"temperature' is 1\.0 there",
        ),
        ({"model": "a", "sampling": {"temperature": 1.0}}, r"'sampling\.layers' is \[0, 1\] there and None now"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(tmp_path: Path, settings: dict, message: str) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace())
    with open(tmp_path / "traces-rank0.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"torn')
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        TraceFolderWriter(tmp_path, settings)
    assert "another output folder" in str(refusal.value)
    assert contents(tmp_path) == before


def test_an_option_that_did_not_exist_yet_was_off(tmp_path: Path) -> None:
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace())
    newer = {"model": "a", "sampling": SETTINGS["sampling"] | {"top_logprobs": 0}}
    assert len(TraceFolderWriter(tmp_path, newer).done) == 1
    newer["sampling"]["top_logprobs"] = 20
    with pytest.raises(InputError, match="top_logprobs' is None there and 20 now"):
        TraceFolderWriter(tmp_path, newer)


def test_foreign_and_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no traces there"):
        read_trace_folder(tmp_path)
    (tmp_path / "traces.jsonl").write_text('{"problem_id": "x"\n{"a": 1}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"no settings\.json"):
        TraceFolderWriter(tmp_path, SETTINGS)
    with pytest.raises(InputError, match="line 1"):
        read_trace_folder(tmp_path)


def test_a_judges_vector_has_a_place_of_its_own(tmp_path: Path) -> None:
    vector = CutVector(np.array([0.5, -1.25, 3e-8], dtype=np.float32), 12_345_678_901)
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace("p", 0), cut_tokens=2, vector=vector)
    (stored,) = read_trace_folder(tmp_path)[0].traces
    found = stored.load_vector()
    assert found.values.dtype == np.float32 and (found.values == vector.values).all() and found.macs == vector.macs
    assert stored.states_path is None
    with pytest.raises(InputError, match="without states"):
        stored.load_states()


@given(st.permutations([f"p{number}" for number in range(4)]), st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_the_order_of_problems_depends_on_no_process_and_no_kill(tmp_path_factory, order, ranks) -> None:
    folder = tmp_path_factory.mktemp("traces")
    for name, rank in zip(order, ranks, strict=True):
        with TraceFolderWriter(folder, SETTINGS, rank) as writer:
            writer.add(replace(make_trace(), problem_id=name))
    assert [entry.problem.id for entry in read_trace_folder(folder)] == ["p0", "p1", "p2", "p3"]


def test_an_id_may_be_longer_than_a_file_name(tmp_path: Path) -> None:
    names = ["x" * 300, "x" * 299 + "y", "/" * 300]
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        for number, name in enumerate(names):
            writer.add(replace(make_trace(), problem_id=name), states=make_states(number))
    stored = {entry.problem.id: entry.traces[0].load_states() for entry in read_trace_folder(tmp_path)}
    assert all(torch.equal(stored[name], make_states(number)) for number, name in enumerate(names))


def test_settings_that_nothing_was_sampled_with_may_be_corrected(tmp_path: Path) -> None:
    """They are written with the first trace: a command that failed before leaves nothing."""
    TraceFolderWriter(tmp_path, {"dtype": "bf16"})
    assert not list(tmp_path.iterdir())
    with TraceFolderWriter(tmp_path, SETTINGS) as writer:
        writer.add(make_trace())
    with pytest.raises(InputError, match="another output folder"):
        TraceFolderWriter(tmp_path, {"dtype": "bf16"})
