"""One place opens engines: options are the constructor's own, everything unknown is refused by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.registry import EngineKeys, check_options, engine_class, open_engine, tokenizer_source
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from tests.engines.contract import drain
from tests.engines.openai_server import CompletionsServer

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
    assert {engine_class(kind).__name__ for kind in ("transformers", "vllm", "openai")} == {
        "TransformersEngine",
        "VLLMEngine",
        "OpenAIEngine",
    }
