"""TVM's runtime library without its compiler, and its thread pools.

TVM has one pool per calling thread, made at the first parallel loop and of that size for ever. `call` gives every call
the number of threads it asks for.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsec.errors import ToolchainError
from sparsec.machine.optional import hidden

_ANY_CORE = 1  # TVM's affinity mode "big cores"


@dataclass(frozen=True)
class Runtime:
    """Functions of the library."""

    load_module: Callable[[str], Any]
    from_dlpack: Callable[[np.ndarray], Any]
    get_item: Callable[[Any, int], Any]
    configure: Callable[..., None]
    num_threads: Callable[[], int]


@functools.cache
def load() -> Runtime:
    """Load the library from the installed package, without importing the package.

    Raises:
        ToolchainError: TVM is not installed.

    """
    libraries = folder()
    os.environ.setdefault("TVM_BIND_THREADS", "0")  # pinned workers of several processes would share the first cores
    with hidden("torch"):
        import tvm_ffi
    for library in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):
        ctypes.CDLL(str(libraries / library), ctypes.RTLD_GLOBAL)
    names = "ffi.ArrayGetItem", "runtime.config_threadpool", "runtime.NumThreads"
    return Runtime(tvm_ffi.load_module, tvm_ffi.from_dlpack, *map(tvm_ffi.get_global_func, names))


def folder() -> Path:
    """Where the installed package keeps its libraries.

    Raises:
        ToolchainError: TVM is not installed.

    """
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise ToolchainError("TVM's runtime is missing; pip install apache-tvm")
    return Path(spec.submodule_search_locations[0]) / "lib"


class Pool(threading.local):
    """The pool of the calling thread: workers it has, and workers in use; 0 before there is one.

    `largest` is the most that any caller in the process may use: a pool cannot grow, so it is made that large.
    """

    largest = 1
    size = 0
    threads = 0


pool = Pool()


def call(threads: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call with that many threads; in another thread if this one's pool is too small or was lost in a fork."""
    runtime = load()
    Pool.largest = max(Pool.largest, threads)
    if pool.size == 0:
        runtime.configure(_ANY_CORE, Pool.largest, ["0"] * Pool.largest)
        pool.size = runtime.num_threads()
    if threads > pool.size:
        return _helper(threads).submit(call, threads, function, *args).result()
    runtime.configure(_ANY_CORE, threads, ["0"] * threads)  # the list's length counts, not the cores in it
    pool.threads = threads
    return function(*args)


@functools.cache
def _helper(threads: int) -> ThreadPoolExecutor:
    """A thread whose pool has that size."""
    return ThreadPoolExecutor(1, f"sparsec-{threads}-threads")


def _forget_threads() -> None:
    """In a forked child: no thread but the calling one is left, so its pool has lost its workers."""
    _helper.cache_clear()
    if pool.size > 1:
        pool.size = -1
        pool.threads = 0


os.register_at_fork(after_in_child=_forget_threads)
