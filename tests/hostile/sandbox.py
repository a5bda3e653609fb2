"""Cases in children of this process, a batch in each: what one breaks ends its child, and the next begin in another.

A case may take `SECONDS` of processor time and `MEMORY` bytes more than the process has before it. Children are forked,
so that what the parent has imported costs them nothing; they tell the parent every case before they try it.
"""

import faulthandler
import os
import resource
import select
import signal
import struct
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from sparsec.errors import InternalError, SparsecError, VerificationError

SECONDS, MEMORY = 20, 1 << 30
HANG_S = 10 * SECONDS
"""Seconds on the clock after which a case that computes nothing hangs."""
BATCH = 25
ASIDE = 1
"""What a child tells instead of a case's number: from here on it is another program that is at work."""
STEP = struct.Struct("<qq")


@dataclass(frozen=True)
class Finding:
    """A case that ended as none may, and how."""

    case: int
    reason: str


class BreachError(AssertionError):
    """A case that takes more memory than it may."""


def run(cases, attempt, errors, *, spends=False):
    """Try cases, each by `attempt(case, aside)` in a child, and yield what is found.

    Args:
        cases: numbers, as an iterator.
        attempt: tries one; may call `aside(True)` before it runs what is not under test, and `aside(False)` after it.
        errors: a file that the children's errors go to.
        spends: a case may refuse for lack of memory.

    """
    waiting, unfinished = [], True
    while unfinished or waiting:
        while unfinished and len(waiting) < BATCH:
            case = next(cases, None)
            unfinished = case is not None
            waiting += [] if case is None else [case]
        if waiting:
            tried, reason = _batch(waiting, attempt, errors, spends=spends)
            if reason:
                yield Finding(waiting[tried - 1], reason)
            waiting = waiting[tried:]


def _batch(cases, attempt, errors, *, spends):
    """How many of the cases were tried, and why the last of them ended as it must not, or nothing."""
    reading, writing = os.pipe()
    Path(errors).write_bytes(b"")
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(cases, attempt, errors, writing, spends=spends)
    os.close(writing)
    tried, aside, hangs = 0, False, False
    with os.fdopen(reading, "rb", buffering=0) as steps:
        while select.select([steps], [], [], HANG_S)[0]:
            step = steps.read(STEP.size)
            if not step:
                break
            kind, value = STEP.unpack(step)
            tried, aside = (tried, bool(value)) if kind == ASIDE else (tried + 1, False)
        else:
            hangs = True
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return len(cases), ""
    if aside and code != 1:
        return tried, ""  # the other program crashed
    said = Path(errors).read_text(errors="replace")
    return tried, f"{_ending(code, hangs=hangs)}\n{said[-4000:]}"


def _ending(code, *, hangs):
    if hangs:
        return f"hangs: nothing for {HANG_S} s"
    if code == -signal.SIGPROF:
        return f"takes over {SECONDS} s"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else "raises"


def _child(cases, attempt, errors, writing, *, spends):
    """Try the cases; never returns."""
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, chain=True)
    warnings.simplefilter("ignore")
    code = 1
    try:
        for case in cases:
            os.write(writing, STEP.pack(0, case))
            _limited(lambda: attempt(case, lambda begins: os.write(writing, STEP.pack(ASIDE, begins))),  # noqa: B023
                     spends=spends)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, it is found
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _limited(attempt, *, spends):
    """Within the limits only success or a refusal may come out; one for lack of memory only where that may be."""
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + MEMORY, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        attempt()
    except (InternalError, VerificationError):
        raise
    except SparsecError as error:
        if not spends and _lacks_memory(error):
            raise BreachError from error
        if not str(error).isprintable():
            raise AssertionError("a message of several lines") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _lacks_memory(error):
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
