"""The documentation site: every link leads somewhere, and nothing comes from the network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module, reason="mkdocs is not installed; pip install 'sparsec[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix("") / "index.html").is_file()
    assert "sparse" in (site / "index.html").read_text()


def test_the_reference_has_signatures(site):
    text = (site / "reference" / "index.html").read_text()
    for name in ("InferenceSession", "from_torch", "IOBinding", "ShapeError"):
        assert name in text


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.findall(r"<(?:script|img)[^>]*src=\"https?:|<link[^>]*stylesheet[^>]*href=\"https?:",
                              page.read_text()), page
