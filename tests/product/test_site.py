"""The documentation site: every link leads somewhere, and nothing comes from the network."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

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


def test_the_picture_of_a_profile_has_a_bar_a_layer(tmp_path):
    layers = [{"layer": f"<{n}>", "us": 1.0 + n, "format": "csr", "roofline": 0.5} for n in range(20)]
    (tmp_path / "p.json").write_text(json.dumps({"layers": layers, "total_us": 210.0}))
    subprocess.run([sys.executable, ROOT / "docs" / "profile.py", tmp_path / "p.json", "-o", tmp_path / "p.svg"],
                   check=True)
    picture = ET.parse(tmp_path / "p.svg").getroot()
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [each for each in texts if "csr" in each] == [f"<{n}> (csr)" for n in range(4, 20)]
    assert "everything else" in texts
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2 * 16 + 1
