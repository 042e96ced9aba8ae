"""The vLLM server that samples rollouts if `vllm_mode` is `server`: checked before a model is loaded, watched after.

TRL 1.16 waits for ever at a URL that answers anything but 200 to `/health`, only warns of log probabilities that are
not the sampled ones, and never returns from a transfer of weights (NCCL) or a request whose server is gone.
"""

import contextlib
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

if TYPE_CHECKING:
    from trl import GRPOConfig

LOGPROBS_MODE = "processed_logprobs"
RETRY_S = 2.0
POLL_S = 20.0
PATIENCE_S = 300.0  # TRL itself gives up a refused connection after about a minute


def uses_server(values: Mapping[str, JSON]) -> bool:
    return bool(values.get("use_vllm")) and values.get("vllm_mode") == "server"


def base_url(values: Mapping[str, JSON]) -> str:
    """Where TRL looks for the server."""
    url = values.get("vllm_server_base_url")
    return url or f"http://{values.get('vllm_server_host', '0.0.0.0')}:{values.get('vllm_server_port', 8000)}"


def serve_command(values: Mapping[str, JSON], model: str) -> str:
    """The command that starts a server which passes `check_rollout_server`."""
    options = ["--host", "0.0.0.0", "--port", str(httpx.URL(base_url(values)).port or 80)]
    options += ["--max-model-len", str(values["vllm_max_model_length"]), "--logprobs-mode", LOGPROBS_MODE]
    options += ["--weight-transfer-config", '{"backend": "nccl"}']
    return f"VLLM_SERVER_DEV_MODE=1 {shlex.join(['vllm', 'serve', model, *options])}"


def check_rollout_server(values: Mapping[str, JSON], model: str) -> None:
    """Check that the server of TRL's `values` answers and can do what GRPO asks of it; nothing without server mode.

    `model` is what it must serve (folder or Hub name); `vllm_max_model_length` [tokens] must be in `values`. To be
    called by the main process: it alone talks to the server. Waits up to `vllm_server_timeout` seconds for a server
    that is still starting. Raises `InputError` with the remedy.
    """
    if not uses_server(values):
        return
    _check_device(values)
    _check_url(base_url(values))
    _check_group_port(int(values.get("vllm_group_port", 51216)))
    url, remedy = base_url(values), f"start it with: {serve_command(values, model)}"
    _wait_until_up(url, float(values.get("vllm_server_timeout", 240.0)), remedy)
    _check_settings(values, model, _read_settings(url, remedy), remedy)


@dataclass(frozen=True)
class _Served:
    """What a server says of itself: its `model`, the tokens that it takes of prompt and completion, what its log
    probabilities are of, and the way weights come to it (None: there is none)."""

    model: str
    max_model_len: int
    logprobs_mode: str
    weight_transfer: str | None


def _read_settings(url: str, remedy: str) -> _Served:
    response = _get(f"{url}/server_info?config_format=json", remedy)
    if response.status_code != 200:
        raise InputError(
            f"{url}: the vLLM server does not show its settings (/server_info: {response.status_code}), so it takes "
            f"no weights either; {remedy}"
        )
    try:
        settings = response.json()["vllm_config"]
        served, transfer = settings["model_config"], settings["weight_transfer_config"]
        backend = None if transfer is None else str(transfer["backend"])
        return _Served(served["model"], int(served["max_model_len"]), served["logprobs_mode"], backend)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{url}: its /server_info is not that of a vLLM server TRL 1.16 knows; {remedy}") from None


def _check_device(values: Mapping[str, JSON]) -> None:
    if values.get("use_cpu"):
        raise InputError(
            "key 'vllm_mode' has the value 'server' beside use_cpu: true; the weights reach a server from GPU to GPU "
            "only; set vllm_mode: colocate, or train on GPUs"
        )


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
        plain = parsed.scheme in ("http", "https") and bool(parsed.host) and not url.endswith(("/", "/v1"))
    except httpx.InvalidURL:
        plain = False
    if not plain:
        raise InputError(
            f"key 'vllm_server_base_url' has the value {url!r}; write http://host:port, without /v1 and without a "
            "slash at its end"
        )


def _check_group_port(port: int) -> None:
    """The main process listens there for the server's workers; a run that was not ended may still hold it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            raise InputError(
                f"key 'vllm_group_port' has the value {port}, which cannot be opened here ({error.strerror}); end "
                "the run that holds it or choose another port"
            ) from None


def _get(url: str, remedy: str) -> httpx.Response:
    try:
        return httpx.get(url, timeout=30.0)
    except httpx.TransportError as error:
        raise InputError(f"{url}: no vLLM server answers ({error or type(error).__name__}); {remedy}") from None


def _wait_until_up(url: str, timeout_s: float, remedy: str) -> None:
    end, told = time.monotonic() + timeout_s, False
    while True:
        try:
            response = _get(f"{url}/health", remedy)
        except InputError:
            if time.monotonic() >= end:
                raise
        else:
            if response.status_code == 200:
                return
            if response.status_code != 503:
                raise InputError(
                    f"{url}: /health answers {response.status_code}, so this is no vLLM server; correct "
                    f"'vllm_server_base_url', or {remedy}"
                )
            if time.monotonic() >= end:
                raise InputError(f"{url}: the vLLM server says that its engine is dead; end it and {remedy}")
        if not told:
            say(f"  waiting up to {timeout_s:.0f} s for the vLLM server")
            told = True
        time.sleep(min(RETRY_S, max(0.0, end - time.monotonic())))


def _check_settings(values: Mapping[str, JSON], model: str, served: _Served, remedy: str) -> None:
    url, needed, transfer = base_url(values), values["vllm_max_model_length"], served.weight_transfer
    if transfer != "nccl":
        found = "no way to take weights" if transfer is None else f"the weight transfer {transfer!r}"
        raise InputError(f"{url}: the vLLM server has {found}, TRL sends them by nccl; {remedy}")
    if not _same_model(model, served.model):
        raise InputError(f"{url}: the vLLM server serves {served.model!r}, the run trains {model!r}; {remedy}")
    if served.max_model_len < int(needed):
        raise InputError(
            f"{url}: the vLLM server takes {served.max_model_len} tokens of prompt and completion, the longest "
            f"prompt and the largest limit need {needed}; {remedy}"
        )
    if values.get("vllm_importance_sampling_correction", True) and served.logprobs_mode != LOGPROBS_MODE:
        raise InputError(
            f"{url}: the vLLM server runs with --logprobs-mode {served.logprobs_mode!r}, so its log probabilities "
            f"are not those of the sampled tokens and the importance ratios would be wrong; {remedy}"
        )


def _same_model(wanted: str, served: str) -> bool:
    """Folders may be mounted elsewhere on the server's machine; the last part of the name has to agree."""
    if Path(wanted).is_dir() and Path(served).is_dir():
        return Path(wanted).resolve() == Path(served).resolve()
    return Path(wanted).name == Path(served).name


@contextlib.contextmanager
def explain_dead_server(arguments: "GRPOConfig") -> Iterator[None]:
    """Around the training: a server that dies ends this process with one clear message and exit code 1.

    An error that reaches us while the server is down is explained. Where TRL would wait for ever, a thread on the
    main process notices that the server has been silent for `PATIENCE_S` seconds. Checkpoints stay as they are, so
    the same command goes on with the newest.
    """
    values = vars(arguments)
    if not uses_server(values) or arguments.process_index != 0:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(values, done), daemon=True).start()
    try:
        yield
    except Exception as error:
        if _is_up(base_url(values)):
            raise
        raise SystemExit(_obituary(values, f"{type(error).__name__}: {error}"[:300])) from None
    finally:
        done.set()


def _watch(values: Mapping[str, JSON], done: threading.Event) -> None:
    heard = time.monotonic()
    while not done.wait(POLL_S):
        if _is_up(base_url(values)):
            heard = time.monotonic()
        elif time.monotonic() - heard >= PATIENCE_S:
            print(_obituary(values, f"silent for {PATIENCE_S:.0f} s"), file=sys.stderr, flush=True)
            os._exit(1)  # the main thread is held inside NCCL and hears no exception


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=POLL_S).status_code == 200
    except httpx.TransportError:
        return False


def _obituary(values: Mapping[str, JSON], reason: str) -> str:
    return (
        f"error: the vLLM server at {base_url(values)} no longer answers ({reason}); start it anew (a server whose "
        "trainer was ended must be started anew as well) and give the same command again: the run goes on from its "
        "newest checkpoint"
    )
