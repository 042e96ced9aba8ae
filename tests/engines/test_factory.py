"""One place opens engines: options are the constructor's own, everything unknown is refused by name."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.registry import (
    ENGINES,
    SET_HERE,
    EngineKeys,
    EngineKind,
    check_options,
    engine_class,
    engine_kind,
    open_engine,
    tokenizer_source,
)
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from tests.engines.contract import drain
from tests.engines.openai_server import CompletionsServer
from tests.scripted_engine import ScriptedEngine

ADDRESS = {"base_url": "http://localhost:8000/v1"}


def opened(kind: str, model: Path | str, **changes: Any) -> Any:
    values = {"dtype": "float32", "device": "cpu", "capture_layers": None, "rows": 8, "options": {}}
    return open_engine(kind, str(model), **values | changes)


def test_the_transformers_engine_takes_its_options(tiny_model: Path) -> None:
    engine = opened("transformers", tiny_model, capture_layers=(0, 2), options={"max_batch_rows": 3})
    assert isinstance(engine, TransformersEngine) and engine.exact
    assert engine.capture_layers == (0, 2) and engine.max_batch_rows == 3


def test_a_server_is_opened_by_its_address(tiny_model: Path) -> None:
    with CompletionsServer(TransformersEngine(tiny_model)) as server:
        options = {"base_url": server.url, "tokenizer": str(tiny_model), "abort_check": "off"}
        engine = opened("openai", "served", options=options)
        assert isinstance(engine, OpenAIEngine) and not engine.exact
        assert engine.parameters == server.engine.parameters
        engine.start((5, 6, 7), [0], SamplingSpec(max_tokens=4))
        assert drain(engine)[-1].done
        engine.close()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("transformer", {}, "expected one of transformers, vllm, openai"),
        ("transformers", {"max_batch_row": 4}, "did you mean 'max_batch_rows'"),
        ("transformers", {"device": "cpu"}, "unknown key 'device'"),
        ("vllm", {"tensor_parallel": 2}, "did you mean 'tensor_parallel_size'"),
        ("openai", {}, "lacks 'base_url'"),
        ("openai", ADDRESS | {"read_timeout": 4}, "did you mean 'read_timeout_s'"),
        ("openai", ADDRESS | {"api_key": "secret"}, "did you mean 'api_key_env'"),
    ],
)
def test_unknown_engines_and_options_are_named(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(kind, options)


def test_states_of_a_server_are_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="linear or pairwise"):
        opened("openai", tiny_model, capture_layers=(0,), options=ADDRESS)


def test_where_a_tokenizer_comes_from(tiny_model: Path) -> None:
    assert tokenizer_source("transformers", "some/model", {}) == "some/model"
    assert tokenizer_source("openai", str(tiny_model), {}) == str(tiny_model)
    assert tokenizer_source("openai", "Qwen/Qwen3-4B", {}) == "Qwen/Qwen3-4B"
    assert tokenizer_source("openai", "served", {"tokenizer": "there"}) == "there"
    with pytest.raises(InputError, match="give one: engine_options"):
        tokenizer_source("openai", "served", {})


@dataclass(kw_only=True)
class Keys(EngineKeys):
    rows: int = 1


def test_the_keys_of_a_config(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("engine: openai\nengine_options: {base_url: 'http://h/v1', max_retries: 5}\n")
    keys = parse_config(Keys, ["--config", str(tmp_path / "c.yaml")])
    keys.check_engine()
    assert keys.engine == "openai" and keys.engine_options["max_retries"] == 5
    assert parse_config(Keys, []).engine == "transformers"
    with pytest.raises(InputError, match="'engine' has the value 'tgi'"):
        parse_config(Keys, ["--engine", "tgi"])


def test_every_kind_has_a_class() -> None:
    assert [engine_class(kind).__name__ for kind in ENGINES] == ["TransformersEngine", "VLLMEngine", "OpenAIEngine"]


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_said_of_an_engine_fits_its_class(name: str) -> None:
    """Options that are named exist, and there is no word on one that a config could not give."""
    kind = engine_kind(name)
    parameters = inspect.signature(engine_class(name).__init__).parameters
    named = {kind.address_option, kind.places_option, kind.gpus_option, *kind.free_options} - {None}
    assert named <= parameters.keys() - set(SET_HERE)
    assert "capture_layers" in parameters or not kind.hands_out_states


def test_places_and_gpus_come_from_the_options_that_the_engine_has_for_them() -> None:
    vllm, local = engine_kind("vllm"), engine_kind("transformers")
    assert (vllm.places({}, 8), vllm.places({"max_num_seqs": 3}, 8), local.places({}, 8)) == (8, 3, None)
    assert (vllm.gpus({}), vllm.gpus({"tensor_parallel_size": 4}), local.gpus({})) == (1, 4, 1)


class OwnEngine(ScriptedEngine):
    """As a user may bring it: opened by a model's name, with an option of its own."""

    def __init__(self, model: str, *, device: str, words: int = 2) -> None:
        super().__init__({0: ["a "] * words})
        self.model, self.device = model, device


class DeclaredEngine(OwnEngine):
    kind = EngineKind(engine=f"{__name__}:DeclaredEngine", in_process=False)


class Unfinished:
    def start(self) -> None: ...


class WithoutParameters(OwnEngine):
    def __init__(self, model: str) -> None:
        self.tokenizer, self.capture_layers = None, ()

    parameters = property()


OWN, NO_CLASS = f"{__name__}:OwnEngine", OwnEngine("x", device="cpu")


def test_an_engine_of_ones_own_is_opened_by_its_dotted_name() -> None:
    engine = opened(OWN, "a/b", options={"words": 3})
    assert (type(engine).__name__, engine.model, engine.device) == ("OwnEngine", "a/b", "cpu")
    engine.start((1,), [0], SamplingSpec())
    assert drain(engine)[-1].text == "a "
    with pytest.raises(InputError, match="did you mean 'words'"):
        check_options(OWN, {"word": 3})
    assert tokenizer_source(OWN, "a/b", {}) == "a/b"


def test_of_an_engine_of_ones_own_little_is_taken_for_granted_unless_it_says_so() -> None:
    kind = engine_kind(OWN)
    assert kind.in_process and kind.one_process_per_model and not kind.hands_out_states
    assert kind.places_option is kind.gpus_option is kind.address_option is None
    assert not engine_kind(f"{__name__}:DeclaredEngine").in_process


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such:Engine", "the module 'no.such' cannot be imported"),
        (f"{__name__}:NoEngine", "has no 'NoEngine'"),
        (f"{__name__}:NO_CLASS", "is no class"),
        (f"{__name__}:Unfinished", "lacks step, park, resume, prune, usage, release, states, close"),
    ],
)
def test_what_is_no_engine_is_refused_early(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_config(Keys, ["--engine", name])
    assert f"key 'engine' has the value '{name}'" in str(caught.value)


def test_an_open_engine_has_all_attributes_of_the_interface() -> None:
    with pytest.raises(InputError, match="has no parameters once it is open"):
        opened(f"{__name__}:WithoutParameters", "a/b")
