"""Looks whether what is installed and found on this machine belongs together, and says what to do where it does not.

    secateur doctor

No key or token is printed, and nothing is changed. Exit code 1 if something that every run needs is missing.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import importlib.metadata
import importlib.util
import netrc
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import console
from secateur.runtime.process import entry_point

_GIB = 2**30
_LITTLE_DISK_GIB, _LITTLE_MEMORY_GIB = 20, 4
_MARKS = {"good": "[green]ok[/green]  ", "note": "[yellow]note[/yellow]", "bad": "[red]bad[/red] "}


@dataclass(frozen=True)
class Finding:
    """`state`: good; a note, for what some runs need; bad, for what all need. `remedy`: what to do, or ""."""

    what: str
    state: Literal["good", "note", "bad"]
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """All there is to say of this machine."""
    yield _python()
    yield from _packages()
    yield _gpus()
    yield _compiler()
    yield _memory()
    yield _disk(Path.cwd())
    yield _hub()
    yield _wandb()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.platform != "linux":
        return Finding("Python", "note", f"{version} on {sys.platform}", "training and vLLM want Linux")
    return Finding("Python", "good", f"{version} on Linux")


def _packages() -> Iterator[Finding]:
    """What `secateur` declares, by its own ranges; one line for what is all right, one for each that is not."""
    good = []
    for line in importlib.metadata.requires("secateur") or []:
        requirement = Requirement(line)
        extra = _extra(requirement)
        if extra == "test" or not (requirement.marker is None or requirement.marker.evaluate({"extra": extra})):
            continue
        finding = _package(requirement, extra)
        if finding.state == "good":
            good.append(f"{finding.what} {finding.found}")
        else:
            yield finding
    yield Finding("packages", "good", ", ".join(good))


def _extra(requirement: Requirement) -> str:
    """The extra that a requirement belongs to, "" for those of every installation."""
    words = str(requirement.marker or "").replace("'", '"').split('"')
    return words[words.index("extra == ") + 1] if "extra == " in words else ""


def _package(requirement: Requirement, extra: str) -> Finding:
    name = requirement.name
    install = f"pip install 'secateur[{extra}]'" if extra else f"pip install '{name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            name, "note" if extra else "bad", "not installed", f"{install}, if you use it" if extra else install
        )
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "bad", version, f"{requirement.specifier} belongs with the others: {install}")
    return Finding(name, "good", version)


def _gpus() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPUs", "note", "not looked for: torch is missing")
    import torch

    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs"
        return Finding("GPUs", "note", f"none; {built}", "small models only; take configs/accelerate/cpu.yaml")
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    told = ", ".join(f"{card.name} with {card.total_memory / _GIB:.0f} GiB" for card in cards)
    return Finding("GPUs", "good", f"{told}; CUDA {torch.version.cuda}")


def _compiler() -> Finding:
    """DeepSpeed builds its optimizers and its CPU communication when they are first used."""
    missing = [name for name in ("ninja", "c++") if shutil.which(name) is None]
    if missing:
        remedy = "pip install ninja, and a C++ compiler (such as g++), if you use configs/accelerate/zero*.yaml"
        return Finding("DeepSpeed's compiler", "note", f"not found: {', '.join(missing)}", remedy)
    return Finding("DeepSpeed's compiler", "good", "ninja and c++ found")


def _memory() -> Finding:
    free, cores = psutil.virtual_memory().available / _GIB, len(psutil.Process().cpu_affinity() or [1])
    told = f"{free:.0f} GiB free, {cores} cores"
    if free < _LITTLE_MEMORY_GIB:
        return Finding("memory", "note", told, "the demo wants 4 GiB; see --dry_run true for what a run wants")
    return Finding("memory", "good", told)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / _GIB
    if free < _LITTLE_DISK_GIB:
        return Finding("disk", "note", f"{free:.0f} GiB free in {folder}", "see --dry_run true for what a run wants")
    return Finding("disk", "good", f"{free:.0f} GiB free in {folder}")


def _hub() -> Finding:
    from huggingface_hub import get_token

    known = "a token is there" if get_token() else "no token"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Finding(
            "Hub", "note", f"{known}; switched off by HF_HUB_OFFLINE", "only local models and files are found"
        )
    if not get_token():
        return Finding("Hub", "note", known, "only for models behind a licence and for push_to_hub: hf auth login")
    return Finding("Hub", "good", known)


def _wandb() -> Finding:
    if os.environ.get("WANDB_API_KEY") or _in_netrc("api.wandb.ai"):
        return Finding("W&B", "good", "a key is there")
    return Finding("W&B", "note", "no key", "only for report_to: wandb: wandb login, or WANDB_MODE=offline")


def _in_netrc(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return path.is_file() and netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):  # somebody else's file; what is wrong in it is not ours to say
        return False


@entry_point
def main() -> None:
    OneLineParser().parse_args()
    findings = list(examine())
    for one in findings:
        console.print(f"{_MARKS[one.state]} [bold]{one.what}[/bold]: {one.found}")
        if one.remedy:
            console.print(f"     → {one.remedy}", markup=False)
    raise SystemExit(1 if any(one.state == "bad" for one in findings) else 0)


if __name__ == "__main__":
    main()
