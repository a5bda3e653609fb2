"""Mutated files end in success or a SparsecError, within a time, a memory and a directory; a crash fails the test.

`SPARSEC_FUZZ_CASES` sets how many files of each kind are tried; `make fuzz` tries many.
"""

import os
import subprocess
import sys

import pytest

from tests.hostile.fuzz import SUBJECTS

CASES = os.environ.get("SPARSEC_FUZZ_CASES", "")
FEW = {"growing": "30"}  # which take longer


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_hostile_files_are_read_or_refused(subject, tmp_path, request):
    directory = tmp_path / "inside"
    directory.mkdir()
    seed = os.urandom(4).hex() if CASES else "0"
    command = [sys.executable, "-m", "tests.hostile.fuzz", subject, "--cases", CASES or FEW.get(subject, "300"),
               "--seed", seed, "--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=request.config.rootpath, check=False)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe file: {directory / 'case'}"
