"""A process that dies or finds the disk full while it writes leaves the old file whole, and a rerun succeeds."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# name -> (what writes the file at `path`, what reads it and raises where it is damaged)
SUBJECTS = {
    "artifact": ("from tests.hostile.artifacts import small_artifact as make; make().save(path)",
                 "from sparsec import Artifact; Artifact.load(path)"),
    "calibration": (("from sparsec.cost.calibration import keep; from sparsec.cost.roofline import DEFAULT_MACHINE;"
                    "keep(DEFAULT_MACHINE, threads=int(path.exists()) + 1, path=path)"),
                    "from sparsec.cost.calibration import kept; assert kept(path)"),
    "tuning log": (("from sparsec.cost.tuning import TuningLog; from sparsec.cost.option import Option, Work;"
                   "from sparsec.target import resolve; import random;"
                   "o = Option('csr', 'k', 'd', random.random(), 8, Work(1, 1));"
                   "assert TuningLog(path, 1.0).time(o, resolve('cpu'), 1, lambda _: 1.0)"),
                   "from sparsec.cost.tuning import _read; assert _read(path)"),
}
PRELUDE = "import os, resource, signal, sys, warnings; from pathlib import Path; path = Path(sys.argv[1]);"
DIE = """
left = int(sys.argv[2])
def watch(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(path.parent) in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2); warnings.simplefilter('ignore')\n"


def python(code, path, *arguments):
    return subprocess.run([sys.executable, "-W", "error", "-c", code, str(path), *map(str, arguments)], check=False,
                          capture_output=True, text=True, cwd=Path(__file__).parents[2])


def succeed(code, path):
    done = python(f"{PRELUDE}{code}", path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_killed_writer_leaves_the_old_file_whole(subject, tmp_path):
    write, read = SUBJECTS[subject]
    path, died = tmp_path / "file", 0
    succeed(write, path)
    for step in range(10):
        done = python(f"{PRELUDE}{DIE}{write}", path, step)
        succeed(read, path)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        died += 1
    assert 0 < died < 10
    succeed(write, path)
    succeed(read, path)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_leaves_the_old_file_whole(subject, room, tmp_path):
    write, read = SUBJECTS[subject]
    path = tmp_path / "file"
    succeed(write, path)
    before = path.read_bytes()
    limit = len(before) + room if subject == "tuning log" else room
    done = python(f"{PRELUDE}{FULL}{write}", path, limit)
    assert done.returncode == 0 or "SparsecError" in done.stderr or "Error: " in done.stderr
    assert path.read_bytes().startswith(before)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    succeed(f"warnings.simplefilter('ignore'); {write}", path)
    succeed(f"warnings.simplefilter('ignore'); {read}", path)
