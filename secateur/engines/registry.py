"""Which engine runs a model: the keys of a config, and the one place that opens engines."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from secateur.engines.base import Engine
from secateur.runtime.config import reject_unknown
from secateur.runtime.errors import InputError
from secateur.runtime.ranks import claim_gpus

KINDS = ("transformers", "vllm", "openai")
SET_HERE = ("dtype", "device", "capture_layers")


@dataclass(kw_only=True)
class EngineKeys:
    """The keys that choose an engine.

    engine: "transformers" and "vllm" run a model in this process; "openai" asks a server with an OpenAI-compatible
      completions endpoint.
    engine_options: the engine's own options, by the names of its constructor; `base_url` is required for "openai".
    """

    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    engine_options: dict[str, Any] = field(default_factory=dict)

    def check_engine(self) -> None:
        """Raises `InputError` for an unknown engine or option, before anything is loaded."""
        check_options(self.engine, self.engine_options)

    def claim_devices(self) -> None:
        """To be called before anything touches a GPU: vLLM takes the first ones that it sees."""
        if self.engine == "vllm":
            claim_gpus(int(self.engine_options.get("tensor_parallel_size", 1)))


def engine_class(kind: str) -> type:
    """The class of an engine; imported here, because each brings its own heavy library."""
    if kind == "transformers":
        from secateur.engines.local.engine import TransformersEngine

        return TransformersEngine
    if kind == "vllm":
        from secateur.engines.vllm.engine import VLLMEngine

        return VLLMEngine
    if kind == "openai":
        from secateur.engines.openai.engine import OpenAIEngine

        return OpenAIEngine
    raise InputError(f"key 'engine' has the value {kind!r}: expected one of {', '.join(KINDS)}")


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Raises `InputError` for a key that the engine's constructor does not have."""
    known = [name for name in _keywords(engine_class(kind)) if name not in SET_HERE]
    if kind == "openai":
        known.append("base_url")
        if "base_url" not in options:
            raise InputError(
                "key 'engine_options' lacks 'base_url', the server's address: {base_url: http://host:8000/v1}"
            )
    reject_unknown(list(options), known, f"key 'engine_options' of the {kind} engine")


def open_engine(
    kind: str,
    model: str,
    *,
    dtype: str,
    device: str,
    capture_layers: Sequence[int] | None,
    rows: int,
    options: Mapping[str, Any],
) -> Engine:
    """Open an engine for `model`, a folder, a hub id or, for "openai", the name under which the server has it.

    `dtype` and `device` concern engines in this process, a server has its own; `rows` is the most traces that will
    run at once. An engine takes of these what its constructor names. Raises `InputError` for anything it refuses.
    """
    check_options(kind, options)
    chosen = engine_class(kind)
    common = {"dtype": dtype, "device": device, "capture_layers": capture_layers}
    values = {key: value for key, value in common.items() if key in _keywords(chosen)} | dict(options)
    if kind == "openai":
        values["tokenizer"] = tokenizer_source(kind, model, options)
        return chosen(values.pop("base_url"), model, **values)
    if kind == "vllm":
        values.setdefault("max_num_seqs", rows)
    return chosen(model, **values)


def tokenizer_source(kind: str, model: str, options: Mapping[str, Any]) -> str:
    """Where the tokenizer of a model comes from: its own folder or hub id, or a server's option `tokenizer`.

    Raises `InputError` where a served name leads to none: prompts are rendered here, with the model's chat template.
    """
    if kind != "openai":
        return model
    given = options.get("tokenizer")
    if given is None and not Path(model).is_dir() and model.count("/") != 1:
        raise InputError(
            f"the server's model '{model}' is neither a folder nor a hub id, so its tokenizer is unknown; give one: "
            "engine_options: {tokenizer: folder or hub id}"
        )
    return str(given if given is not None else model)


def _keywords(chosen: type) -> list[str]:
    parameters = inspect.signature(chosen.__init__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
