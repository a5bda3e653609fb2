"""Mutated and made files end in success or a SparsecError, within a time, a memory and a directory.

`SPARSEC_FUZZ_SECONDS` sets how long each kind is tried; `make fuzz` tries them for half an hour together.
"""

import os
import subprocess
import sys

import pytest

from tests.hostile.fuzz import SUBJECTS

SECONDS = os.environ.get("SPARSEC_FUZZ_SECONDS", "")
FEW = {"growing": "30", "compiled": "6", "operators": "8", "names": "1"}  # which take longer


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_hostile_files_are_read_or_refused(subject, tmp_path, request):
    directory = tmp_path / "inside"
    directory.mkdir()
    often = ["--seconds", SECONDS, "--seed", os.urandom(4).hex()] if SECONDS else ["--cases", FEW.get(subject, "300")]
    command = [sys.executable, "-m", "tests.hostile.fuzz", subject, *often, "--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=request.config.rootpath, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-3000:]}"
