"""Which engine runs a model: all there is to know of each, a config's keys, and the one place that opens engines.

Whoever treats one engine in another way than the others asks `engine_kind(name)` for what makes the difference.
"""

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.engines.base import Engine
from secateur.runtime.config import import_named, is_dotted, reject_unknown
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.process import claim_gpus

SET_HERE = ("dtype", "device", "capture_layers")
"""Keyword arguments of a constructor that come from other keys of a config than `engine_options`."""


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """An engine before it is opened: what a config may ask of it, and what others have to take care of.

    engine: its class, `package.module:Class`; it keeps `secateur.engines.base.Engine`.
    in_process: models are folders or Hub ids, opened in this process on its own devices; else a server has them,
        under names of its own.
    hands_out_states: it can keep the hidden states of generated tokens (`capture_layers`).
    address_option: the option that the constructor takes before the model, a server's address; it must be given.
    places_option: the option that says how many traces it holds at once, all that it will ever take; a config's
        `rows` where it is not given. None: there is no such bound.
    gpus_option: the option that says how many GPUs one process takes. Such an engine takes the first ones that it
        sees, so every process of a launch is left its own. None: it goes where `device` says.
    one_process_per_model: its memory does not come back while the process lives, so that each of several models
        needs a process of its own.
    reserves_memory: it takes its room for keys and values when it is opened; else it grows with the traces.
    hides_overrun: what is computed after a trace was stopped is not told.
    library: the package that it cannot do without, and `remedy`: how one comes by it; "": what is installed anyway.
    dtypes: the values of the key `dtype` that it knows; (): it says so itself.
    free_options: options that change how fast, where or by which connection it samples, and nothing of what comes
        out: they may differ where a run goes on.
    """

    engine: str
    in_process: bool = True
    hands_out_states: bool = False
    address_option: str | None = None
    places_option: str | None = None
    gpus_option: str | None = None
    one_process_per_model: bool = True
    reserves_memory: bool = False
    hides_overrun: bool = False
    library: str = ""
    remedy: str = ""
    dtypes: tuple[str, ...] = ()
    free_options: frozenset[str] = frozenset()

    def gpus(self, options: Mapping[str, JSON]) -> int:
        """GPUs that one process takes with these options."""
        return 1 if self.gpus_option is None else int(options.get(self.gpus_option, 1))

    def places(self, options: Mapping[str, JSON], rows: int) -> int | None:
        """Traces that it holds at once with these options, opened for `rows`; None: as many as there are."""
        return None if self.places_option is None else int(options.get(self.places_option, rows))


ENGINES: dict[str, EngineKind] = {
    "transformers": EngineKind(
        engine="secateur.engines.local.engine:TransformersEngine",
        hands_out_states=True,
        one_process_per_model=False,
        dtypes=("float32", "bfloat16", "float16", "float64"),
        free_options=frozenset({"max_batch_rows", "threads"}),
    ),
    "vllm": EngineKind(
        engine="secateur.engines.vllm.engine:VLLMEngine",
        hands_out_states=True,
        places_option="max_num_seqs",
        gpus_option="tensor_parallel_size",
        reserves_memory=True,
        library="vllm",
        remedy="on a GPU machine `pip install -e '.[vllm]'` in the folder of this project, or `make test-vllm` for "
        "an environment with its CPU build",
        dtypes=("auto", "float32", "bfloat16", "float16"),
        free_options=frozenset(
            {"gpu_memory_utilization", "kv_cache_gib", "tensor_parallel_size", "max_num_seqs", "enforce_eager"}
        ),
    ),
    "openai": EngineKind(
        engine="secateur.engines.openai.engine:OpenAIEngine",
        in_process=False,
        address_option="base_url",
        one_process_per_model=False,
        hides_overrun=True,
        free_options=frozenset({"base_url", "api_key_env", "read_timeout_s", "max_retries"}),
    ),
}


def engine_kind(name: str, key: str = "engine") -> EngineKind:
    """What there is to know of the engine that the config's `key` names.

    A class of a user's own, `package.module:Class`, may say it in a class attribute `kind`; else it is taken for one
    that opens model folders in this process, hands out no states and keeps its memory. Raises `InputError` for an
    unknown name, and for a class that cannot be imported or lacks a method of `secateur.engines.base.Engine`.
    """
    if name in ENGINES:
        return ENGINES[name]
    if not is_dotted(name):
        raise InputError(f"key '{key}' has the value {name!r}: expected one of {', '.join(ENGINES)}")
    chosen = import_named(name, key)
    if not isinstance(chosen, type):
        raise InputError(f"key '{key}' has the value '{name}', which is no class; name an engine's class")
    _check_protocol(chosen, name, key)
    return getattr(chosen, "kind", EngineKind(engine=name))


def _check_protocol(chosen: type, name: str, key: str) -> None:
    wanted = [method for method, value in vars(Engine).items() if callable(value) and not method.startswith("_")]
    missing = [method for method in wanted if not callable(getattr(chosen, method, None))]
    if missing:
        raise InputError(
            f"key '{key}' has the value '{name}', which lacks {', '.join(missing)}; an engine keeps the interface "
            "secateur.engines.base.Engine"
        )


@dataclass(kw_only=True)
class EngineKeys:
    """The keys that choose an engine.

    engine: `transformers` and `vllm` run a model in this process; `openai` asks a server with an OpenAI-compatible
      completions endpoint; a class of your own is named `package.module:Class`.
    engine_options: the engine's own options, by the names of its constructor; `base_url` is required for `openai`.
    """

    engine: str = "transformers"
    engine_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_engine()

    def check_engine(self) -> None:
        """Raises `InputError` for an unknown engine or option, before anything is loaded."""
        check_options(self.engine, self.engine_options)

    def claim_devices(self) -> None:
        """To be called before anything touches a GPU: some engines take the first ones that they see."""
        kind = engine_kind(self.engine)
        if kind.gpus_option is not None:
            claim_gpus(kind.gpus(self.engine_options))


def engine_class(name: str) -> type:
    """The class of an engine; imported here, because each brings its own heavy library."""
    found = import_named(engine_kind(name).engine, "engine")
    assert isinstance(found, type), found
    return found


def check_options(name: str, options: Mapping[str, JSON]) -> None:
    """Raises `InputError` for a key that the engine's constructor does not have. The engine, which takes seconds to
    import, is only asked where there is one."""
    address = engine_kind(name).address_option
    if address is not None and address not in options:
        raise InputError(
            f"key 'engine_options' lacks '{address}', the server's address: {{{address}: http://host:8000/v1}}"
        )
    if own := [option for option in options if option != address]:
        known = [option for option in _keywords(engine_class(name)) if option not in SET_HERE]
        reject_unknown(own, known, f"key 'engine_options' of the {name} engine")


def check_library(name: str) -> None:
    """Raises `InputError` where the library of an engine is missing, without importing it."""
    kind = engine_kind(name)
    if kind.library and importlib.util.find_spec(kind.library) is None:
        raise InputError(f"engine '{name}': {kind.library} is not installed; {kind.remedy}")


def check_installed(name: str) -> None:
    """The same, and for a version that the engine is not written for, as its class says in `check_installed`."""
    getattr(engine_class(name), "check_installed", lambda: None)()


def check_dtype(name: str, dtype: str) -> None:
    """Raises `InputError` for a precision that the engine does not know."""
    known = engine_kind(name).dtypes
    if known and dtype not in known:
        raise InputError(f"key 'dtype' has the value {dtype!r}: expected one of {', '.join(known)} (engine {name})")


def open_engine(
    name: str,
    model: str,
    *,
    dtype: str,
    device: str,
    capture_layers: Sequence[int] | None,
    rows: int,
    options: Mapping[str, JSON],
) -> Engine:
    """Open an engine for `model`, a folder, a Hub id or the name under which a server has it.

    `dtype` and `device` concern engines in this process, a server has its own; `rows` is the most traces that will
    run at once. An engine takes of these what its constructor names. Raises `InputError` for anything it refuses.
    """
    check_options(name, options)
    kind, chosen = engine_kind(name), engine_class(name)
    common = {"dtype": dtype, "device": device, "capture_layers": capture_layers}
    values = {key: value for key, value in common.items() if key in _keywords(chosen)} | dict(options)
    if kind.places_option is not None:
        values.setdefault(kind.places_option, rows)
    if not kind.in_process and "tokenizer" in _keywords(chosen):
        values["tokenizer"] = tokenizer_source(name, model, options)
    places = [values.pop(kind.address_option)] if kind.address_option is not None else []
    return _with_all_attributes(chosen(*places, model, **values), name)


def _with_all_attributes(engine: Engine, name: str) -> Engine:
    missing = [attribute for attribute in Engine.__annotations__ if not hasattr(engine, attribute)]
    if missing:
        raise InputError(
            f"the engine '{name}' has no {', '.join(missing)} once it is open; its constructor sets the attributes "
            "of secateur.engines.base.Engine"
        )
    return engine


def tokenizer_source(name: str, model: str, options: Mapping[str, JSON]) -> str:
    """Where the tokenizer of a model comes from: its own folder or Hub id, or a server's option `tokenizer`.

    Raises `InputError` where a served name leads to none: prompts are rendered here, with the model's chat template.
    """
    if engine_kind(name).in_process:
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
