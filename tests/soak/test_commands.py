"""A command that dies or finds the disk full at any point leaves the old files whole, and a rerun succeeds."""

import json
import multiprocessing
import signal

import pytest

from sparsec import Artifact
from tests.support import command_process
from tests.support.texts import model

LINEAR = model("g (float[2,64] x) => (float[2,900] y) <float[64,900] w> { h = MatMul(x, w) y = Relu(h) }")
COMMANDS = {
    "compile": ["compile", "m.onnx", "-o", "out/m.sparsec", "--tune", "off", "--json", "out/m.json"],
    "tune": ["compile", "m.onnx", "-o", "out/m.sparsec", "--threads", "2"],
    "calibrate": ["calibrate", "--json", "out/m.json"],
}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.support.command_process"])


@pytest.fixture
def here(tmp_path):
    (tmp_path / "m.onnx").write_bytes(LINEAR.SerializeToString())
    (tmp_path / "out").mkdir()
    return tmp_path


def run(here, command, prepare=None, number=0):
    """The command's exit code."""
    process = PROCESSES.Process(target=command_process.run, args=(here, COMMANDS[command], prepare, number))
    process.start()
    process.join()
    return process.exitcode


def succeed(here, command):
    assert run(here, command) == 0, (here / "errors").read_text()


def read_all(here):
    """Read whatever the commands write; raises where a file is not whole. Returns their names."""
    files = {path.name: path for path in (here / "out").rglob("*") if path.is_file()}
    readers = {"m.sparsec": Artifact.load, "m.json": lambda path: json.loads(path.read_text()),
               "calibration.json": lambda path: json.loads(path.read_text()),
               "tuning.jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()]}
    for name, reader in readers.items():
        if name in files:
            reader(files[name])
    return set(files)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_the_old_files_whole(command, here):
    succeed(here, command)
    whole, died = read_all(here), 0
    while code := run(here, command, command_process.die, died):
        assert code == -signal.SIGKILL, (here / "errors").read_text()
        assert whole <= read_all(here)
        died += 1
    assert died > 1
    succeed(here, command)


@pytest.mark.parametrize(("command", "room"), [
    ("calibrate", 0), ("calibrate", 100), ("compile", 150_000), ("tune", 150_000)])  # room to link, not for the weights
def test_a_full_disk_leaves_the_old_files_whole(command, room, here):
    succeed(here, command)
    whole = read_all(here)
    before = {name: (here / "out" / name).read_bytes() for name in whole if (here / "out" / name).is_file()}
    code = run(here, command, command_process.fill, room)
    assert code == 1
    assert read_all(here) == whole
    assert {name: (here / "out" / name).read_bytes() for name in before} == before
    succeed(here, command)
