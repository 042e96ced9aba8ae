"""`make docs`: built in strict mode, which ends at a broken link or anchor; nothing of it comes from elsewhere."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import secateur
from tools import docs_site


@pytest.fixture(scope="module")
def site(repository: Path) -> Path:
    done = subprocess.run([sys.executable, "-m", "tools.docs_site"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return repository / "outputs" / "docs" / "site"


def test_every_document_is_a_page_that_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in docs_site.pages().values():
        assert (site / page.replace(".md", ".html")).is_file(), page
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|link)[^>]*(?:src|href)=.?(?:https?:)?//", text), path


def test_the_api_page_has_every_public_name_with_its_docstring(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in secateur.__all__:
        assert f">{name}<" in page or f"secateur.{name}" in page or f".{name}" in page, name
    assert "Answer one problem by the vote of up to n parallel traces" in page


def test_links_lead_to_pages_and_other_files_become_text() -> None:
    assert not doctest.testmod(docs_site).failed
    known = docs_site.pages()
    assert docs_site.with_links("[a](docs/single.md) ![b](docs/demo.png)", "README.md", known) == (
        "[a](single.md) ![b](demo.png)"
    )
    assert (
        docs_site.with_links("[a](https://x.y/z.md) [b](#c)", "README.md", known) == "[a](https://x.y/z.md) [b](#c)"
    )
