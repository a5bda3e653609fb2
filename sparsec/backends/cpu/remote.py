"""Timing kernels on other machines, through TVM's RPC tracker and the servers that register with it.

The machines run `python -m tvm.exec.rpc_server --tracker HOST:PORT --key KEY`; the tracker is
`python -m tvm.exec.rpc_tracker`. Kernels are compiled and linked here.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx_ir as ir
import tvm

from sparsec.backends.cpu.build import exported, settings
from sparsec.backends.cpu.layers import repeats
from sparsec.backends.cpu.planning import kernel_call
from sparsec.cost.option import Option
from sparsec.errors import CalibrationError, ToolchainError, UsageError
from sparsec.target import Target

ATTEMPTS = 3  # servers that a measurement is tried on
SESSION_S = 60  # after which a server that does not answer is given up
CONNECT_S = 5
REPEATS, REPEAT_MS = 4, 1


@dataclass(frozen=True)
class Remote:
    """Servers of one key behind a tracker."""

    host: str
    port: int
    key: str
    _tracker: Any = field(repr=False, compare=False)

    @property
    def address(self) -> str:
        """The URL, rpc://HOST:PORT/KEY."""
        return f"rpc://{self.host}:{self.port}/{self.key}"

    @property
    def machine(self) -> str:
        """What the tuning log knows the servers by."""
        return self.address

    @property
    def here(self) -> bool:
        """Whole programs are not timed there."""
        return False

    @property
    def workers(self) -> int:
        """Kernels that are timed at once."""
        return self.servers

    @property
    def servers(self) -> int:
        """Servers that are registered now."""
        return sum(each["key"] == f"server:{self.key}" for each in self._tracker.summary()["server_info"])

    def prepare(self, options: Sequence[Option], target: Target, threads: int) -> None:
        """Nothing: as many threads compile as there are servers."""

    def measure(self, node: ir.Node, option: Option, target: Target, threads: int) -> float:
        """Seconds that an option takes for a node on whichever server is free; another is tried where one dies.

        Raises:
            CalibrationError: no server could do it.

        """
        call = kernel_call(node, option, target, threads)
        arrays = [*call.constants, *call.activations()]
        with settings(target) as llvm:
            executable = tvm.compile(call.kernel.with_attr("global_symbol", "main"), target=llvm)
        failures = []
        with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
            library = Path(directory) / f"{Path(directory).name}.so"
            content, objects = exported(executable, target)
            if objects:
                raise ToolchainError("measuring on other machines needs a linker here; install binutils")
            library.write_bytes(content)
            for _ in range(ATTEMPTS):
                try:
                    return self._time(library, arrays) * repeats(node)
                except (RuntimeError, OSError, tvm.error.InternalError) as error:
                    failures.append(str(error).strip().splitlines()[-1])
        raise CalibrationError(f"{self.address}: no server could time '{option.kernel}' in {ATTEMPTS} attempts "
                               f"({failures[-1]}); see that its servers run and have TVM {tvm.__version__}")

    def _time(self, library: Path, arrays: list[np.ndarray]) -> float:
        session = self._tracker.request(self.key, session_timeout=SESSION_S, max_retry=1)
        session.upload(str(library))
        device = session.cpu()
        tensors = [tvm.runtime.tensor(array, device) for array in arrays]
        evaluator = session.load_module(library.name).time_evaluator("main", device, number=1, repeat=REPEATS,
                                                                     min_repeat_ms=REPEAT_MS)
        return float(min(evaluator(*tensors).results))


def connect(url: str) -> Remote:
    """The servers behind "rpc://HOST:PORT/KEY".

    Raises:
        UsageError: another form.
        ToolchainError: the packages that TVM's RPC needs are missing.
        CalibrationError: the tracker cannot be reached, or has no server of the key.

    """
    parts = urlsplit(url)
    key = parts.path.strip("/")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "rpc" or not parts.hostname or port is None or not key:
        raise UsageError(f"'{url}': give a tracker and a key, such as rpc://127.0.0.1:9190/pi")
    try:
        socket.create_connection((parts.hostname, port), CONNECT_S).close()  # TVM would retry for a minute
        from tvm import rpc

        tracker = rpc.connect_tracker(parts.hostname, port)
    except ImportError as error:
        raise ToolchainError(f"TVM's RPC needs {error.name}; install sparsec[rpc]") from error
    except (RuntimeError, OSError) as error:
        raise CalibrationError(f"the tracker of {url} cannot be reached ({error}); start one with "
                               "python -m tvm.exec.rpc_tracker") from error
    remote = Remote(parts.hostname, port, key, tracker)
    if not remote.servers:
        raise CalibrationError(f"the tracker of {url} has no server of key '{key}'; start one with "
                               f"python -m tvm.exec.rpc_server --tracker {parts.hostname}:{port} --key {key}")
    return remote
