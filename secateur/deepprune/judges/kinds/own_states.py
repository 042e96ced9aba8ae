"""Kind `linear_own_states`: the generator's own hidden states at the cut, pooled by a few learned heads."""

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind, JudgeReading, must_be_trained
from secateur.deepprune.judges.pairs import JudgeData
from secateur.deepprune.judges.record import JUDGE_FILE, JudgeRecord
from secateur.runtime.records import record_of

if TYPE_CHECKING:
    import torch

    from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesShape


class OwnStatesKind(JudgeKind[JudgeKeys]):
    """See own_states.py for the judge."""

    def check(self, keys: JudgeKeys) -> None:
        must_be_trained(keys)

    def build(self, keys: JudgeKeys, data: JudgeData) -> "OwnStatesJudge":
        from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape

        assert data.layers is not None and data.hidden is not None, "data of a judge of own states has states"
        shape = OwnStatesShape(data.layers, data.hidden, keys.heads, keys.width, keys.pair_hidden)
        return OwnStatesJudge(OwnStatesModel(shape), shape, data.cut_rule)

    def load(self, folder: Path, record: JudgeRecord, device: "str | torch.device") -> "OwnStatesJudge":
        from secateur.deepprune.judges.own_states import load_own_states

        return load_own_states(folder, record.cut, _shape(folder, record), device)

    def reading(self, folder: Path, record: JudgeRecord) -> JudgeReading:
        shape = _shape(folder, record)
        return JudgeReading(len(shape.layers), shape.hidden, shape.heads * shape.width)


def _shape(folder: Path, record: JudgeRecord) -> "OwnStatesShape":
    from secateur.deepprune.judges.own_states import OwnStatesShape

    return record_of(OwnStatesShape, record.shape, f"{folder / JUDGE_FILE}: shape")


KIND = OwnStatesKind(
    name="linear_own_states",
    label="own states",
    reads="the generator's own hidden states of layers {layers}; no token is read again",
    compares="vectors",
    training="always",
    reads_states=True,
)
