"""Gathers the documents of the repository as pages of one searchable site, outputs/docs/site; `make docs`.

    python -m tools.docs_site

README.md is its first page, docs/start.md the one to begin with, and a page of the public API is made from the
docstrings. Links between documents lead to their pages, links to other files of the repository become plain text. A
broken link or anchor ends the command.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import secateur
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.runtime.process import entry_point
from tools.config_keys import REPOSITORY

OUTPUT = REPOSITORY / "outputs" / "docs"
_PICTURES = ("docs/*.png", "bench/*.png")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_PARTS = {
    "Answer with fewer tokens": ("prune", "PruneResult", "Answers", "TraceResult"),
    "Many callers at once": ("Pruner", "PruneProgress", "TraceProgress", "Load", "Busy"),
    "Many problems at once": ("run_live", "ProblemJob", "LiveResult"),
    "Rules": (
        "AnswerRule",
        "EvidenceRule",
        "PruneRule",
        "StartRule",
        "ClusterRule",
        "FinishRule",
        "CutRule",
        "Decision",
    ),
    "Own rules": ("StartingPolicy", "OnDemand", "StoppingRule", "Lead"),
    "Judges": ("load_judge", "Judge", "JudgeError"),
    "Engines": ("Engine", "SamplingSpec", "TransformersEngine", "VLLMEngine", "OpenAIEngine", "EngineError", "Usage"),
    "Results": ("Table", "Row", "read_table", "InputError"),
}


def pages() -> dict[str, str]:
    """File of the repository → its page, of everything that the site holds."""
    documents = sorted(path for pattern in ("docs/*.md", "bench/*.md") for path in REPOSITORY.glob(pattern))
    pictures = sorted(path for pattern in _PICTURES for path in REPOSITORY.glob(pattern))
    names = [path.relative_to(REPOSITORY).as_posix() for path in (*documents, *pictures)]
    own = {name: name.removeprefix("docs/") for name in names}
    return {"README.md": "index.md", **own, **{name: name for name in ("CONTRIBUTING.md", "SECURITY.md")}}


def with_links(text: str, source: str, known: dict[str, str]) -> str:
    """The text of the document `source`, its links leading to pages.

    >>> with_links("[all](../bench/RESULTS.md#kills), [it](../eval/ls.py)", "docs/single.md",
    ...            {"docs/single.md": "single.md", "bench/RESULTS.md": "bench/RESULTS.md"})
    '[all](bench/RESULTS.md#kills), it'
    """
    here = PurePosixPath(known[source]).parent

    def lead(match: re.Match[str]) -> str:
        target, _, anchor = match[3].partition("#")
        if re.match(r"[a-z]+:", match[3]) or not target:
            return match[0]
        file = os.path.normpath(PurePosixPath(source).parent / target)
        if file not in known:
            return match[2]
        page = os.path.relpath(known[file], here)
        return f"{match[1]}[{match[2]}]({page}{f'#{anchor}' if anchor else ''})"

    return _LINK.sub(lead, text)


def api_page() -> str:
    """Every public name under one of the headings. Raises `InputError` for one that stands nowhere."""
    placed = {name for names in _PARTS.values() for name in names}
    constants = sorted(name for name in secateur.__all__ if name.isupper())
    if missing := sorted(set(secateur.__all__) - placed - set(constants)):
        raise InputError(f"tools/docs_site.py: no heading of the API page has {', '.join(missing)}; add them")
    return "\n\n".join(["# API", "All of it is imported from `secateur` itself.", *_api_parts(constants)]) + "\n"


def _api_parts(constants: list[str]) -> Iterator[str]:
    for title, names in _PARTS.items():
        yield f"## {title}"
        yield from (f"::: {secateur._HOME_OF[name]}.{name}" for name in names)
        if title == "Rules":
            yield f"Ready made: {', '.join(f'`{name}`' for name in constants)}."


def gather(folder: Path) -> None:
    """Write all pages into a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    known = pages()
    for name, page in known.items():
        if name.endswith(".md"):
            write_text(folder / page, with_links((REPOSITORY / name).read_text(encoding="utf-8"), name, known))
        else:
            (folder / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / page)
    write_text(folder / "api.md", api_page())


@entry_point
def main() -> None:
    gather(OUTPUT / "pages")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # it concerns who maintains the theme, not who reads
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"], cwd=REPOSITORY, env=env)
    if done.returncode:
        raise InputError("the site was not built; the lines above say which link or anchor leads nowhere")
    site = (OUTPUT / "site").relative_to(REPOSITORY)
    say(f"open {site / 'index.html'}; with its search: python -m http.server --directory {site}")


if __name__ == "__main__":
    main()
