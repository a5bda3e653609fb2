"""The tutorials, run block by block: Python in one namespace, shells beside it, and files as their blocks name them.

Each takes some ten seconds, and so they run where SPARSEC_LONG is set, as `make docs` sets it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsec.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
NEEDS = {"cnn": ("torch",), "bert": ("torch",), "decoder": ("torch",), "serving": ("kserve",), "prune": ("sklearn",)}
PROGRAMS = {"cpp": ("c++", "cmake"), "gpu": ("nvcc", "g++"), "serving": ("curl",)}
BLOCK = re.compile(r"^```(python|sh|cpp (?P<file>\S+))\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, where `sparsec` and `python` are those that run this."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("sparsec", "-m sparsec"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def blocks_of(page):
    return list(BLOCK.finditer(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_code_are_such(page):
    for block in blocks_of(page):
        if block[1] == "python":
            compile(block["text"], str(page), "exec")
        for command in re.findall(r"^sparsec (\S+)", block["text"], re.MULTILINE):
            assert command in COMMANDS
    assert len(blocks_of(page)) > 2


@pytest.mark.skipif(not os.environ.get("SPARSEC_LONG"), reason="takes ten seconds a page")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tutorial(page, folder):
    for module in NEEDS.get(page.stem, ()):
        pytest.importorskip(module, reason=f"{module} is not installed")
    if missing := [name for name in PROGRAMS.get(page.stem, ()) if shutil.which(name) is None]:
        pytest.skip(f"needs {missing[0]}")
    namespace = {"__name__": page.stem}
    for block in blocks_of(page):
        text = block["text"]
        if block["file"]:
            Path(block["file"]).write_text(text)
        elif block[1] == "sh":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False)
            assert done.returncode == 0, text + done.stdout + done.stderr
        else:
            exec(compile(text, str(page), "exec"), namespace)
