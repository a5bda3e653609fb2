"""A process that runs one command and dies, or finds the disk full, at a certain point; forked from one that has
imported what commands need."""

import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import onnxruntime  # noqa: F401 - what commands import
import onnxscript.optimizer
import onnxscript.version_converter  # noqa: F401 - what commands import

import sparsec.backends.cpu.calibrate
import sparsec.bench.efficiency
import sparsec.compiler.buckets
import sparsec.compiler.compile
import sparsec.compiler.portable
from sparsec.cli import main
from sparsec.cost.roofline import DEFAULT_MACHINE


def die(after):
    """Be killed when more than this many files or folders have been touched."""
    left, here = [after], str(Path.cwd())

    def watch(event, arguments):
        touches = event in ("open", "os.rename", "os.remove", "os.mkdir")
        if touches and str(arguments[0]).startswith(("out", here)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def fill(room):
    """Let no file grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


def run(folder, arguments, prepare=None, number=0):
    """The command in a folder that is the user's cache, too; its errors go to the file "errors" there."""
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "out")
    sys.stdout = sys.stderr = Path("errors").open("w", buffering=1)  # noqa: SIM115 - until the process ends
    sys.argv = ["sparsec", *arguments]
    rates = {name: rate for name, rate in asdict(DEFAULT_MACHINE).items() if isinstance(rate, float)}
    # The real measurements take long.
    sparsec.backends.cpu.calibrate.measure = sparsec.backends.cpu.calibrate.measure_quickly = lambda *_: rates
    sparsec.bench.efficiency.measure = lambda *_: sparsec.bench.efficiency.Timings({}, 0, 1)
    if prepare is not None:
        prepare(number)
    main()
