"""TVM's runtime library without its compiler, and who calls it.

TVM has one thread pool per calling thread, made at the first parallel loop and of that size until the thread ends. Were
every thread to call by itself, each would have a pool. So only the main thread has one; parallel programs of others run
on `workers`, which are few. Programs of one thread need no pool and run where they are called.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsec.errors import ToolchainError
from sparsec.machine import cpus, interpreter
from sparsec.machine.optional import hidden
from sparsec.machine.workers import Workers, everybody

_ANY_CORE = 1  # TVM's affinity mode "big cores"
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"
"""tvm::runtime::threading::SetMaxConcurrency(int), which no global function offers."""
_OWN = Path(__file__).parent / "libraries"


@dataclass(frozen=True)
class Runtime:
    """Functions of the library.

    Attributes:
        configure: makes the calling thread's pool, or lets it use fewer of its threads.
        num_threads: those that it uses.
        limit: the threads of a pool that the calling thread may make; with one it makes none.
        type_of: the element type of a name.

    """

    load_module: Callable[[str], Any]
    from_dlpack: Callable[[np.ndarray], Any]
    get_item: Callable[[Any, int], Any]
    configure: Callable[..., None]
    num_threads: Callable[[], int]
    limit: Callable[[int], Any]
    type_of: Callable[[str], Any]


@functools.cache
def load() -> Runtime:
    """Load the library from the installed package, without importing the package.

    Raises:
        ToolchainError: TVM is not installed, or the interpreter is one that it does not work in.

    """
    interpreter.check()
    libraries = folder()
    os.environ.setdefault("TVM_BIND_THREADS", "0")  # pinned workers of several processes would share the first cores
    with hidden("torch"):
        import tvm_ffi
    opened, _ = (ctypes.CDLL(str(libraries / library), ctypes.RTLD_GLOBAL)
                 for library in ("libtvm_runtime.so", "libtvm_runtime_extra.so"))
    get_item, configure, num_threads = map(tvm_ffi.get_global_func, (
        "ffi.ArrayGetItem", "runtime.config_threadpool", "runtime.NumThreads"))
    return Runtime(functools.partial(tvm_ffi.load_module, keep_module_alive=False), tvm_ffi.from_dlpack, get_item,
                   configure, num_threads, getattr(opened, _SET_MAX_CONCURRENCY), tvm_ffi.dtype)


def folder() -> Path:
    """Where the libraries are: beside this module, as `sparsec-runtime` has them, else in TVM's package.

    Raises:
        ToolchainError: TVM is not installed.

    """
    if _OWN.is_dir():
        return _OWN
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise ToolchainError("TVM's runtime is missing; pip install apache-tvm")
    return Path(spec.submodule_search_locations[0]) / "lib"


def version() -> str:
    """TVM's version."""
    return (_OWN / "VERSION").read_text() if _OWN.is_dir() else importlib.metadata.version("apache-tvm")


class Caller(threading.local):
    """The calling thread: threads that its pool has, and that it uses now; 0 before it has called.

    `largest` is the most that any caller in the process may use: a pool cannot grow, so it is made that large.
    """

    largest = 1
    size = 0
    threads = 0


caller = Caller()


def call(threads: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call with that many threads, of this thread's pool where it has one of that size, else on a worker."""
    Caller.largest = max(Caller.largest, threads)
    if _configured(threads):
        return function(*args)
    helpers = workers(threads)
    return helpers.call(function, *args)


def _configured(threads: int) -> bool:
    """Let the programs that this thread calls use as many threads, if it can."""
    runtime = load()
    if threads == 1 and caller.size <= 0:
        runtime.limit(1)
        caller.threads = 1
        return True
    if caller.size == 0 and threading.current_thread() is threading.main_thread():
        _make_pool(Caller.largest)
    if threads > caller.size:
        return False
    runtime.configure(_ANY_CORE, threads, ["0"] * threads)  # the list's length counts, not the cores in it
    caller.threads = threads
    return True


def _make_pool(threads: int) -> None:
    """Give this thread a pool of so many threads, as TVM allows them."""
    runtime = load()
    runtime.configure(_ANY_CORE, threads, ["0"] * threads)
    caller.size, caller.threads = runtime.num_threads(), threads


def workers(threads: int) -> Workers:
    """Those whose programs use as many threads; all together they occupy the processors there are, but one at least.

    They end when nobody holds them any more.
    """
    found = _workers.get(threads)
    if found is None:
        found = _workers[threads] = Workers(max(1, cpus.available() // threads), functools.partial(_make_pool, threads))
    return found


_workers: weakref.WeakValueDictionary[int, Workers] = weakref.WeakValueDictionary()


def forget() -> None:
    """In a forked child, whose only thread has lost the others of its pool."""
    for each in everybody():
        each.forget()
    if caller.size > 1:
        caller.size = -1
        caller.threads = 0
