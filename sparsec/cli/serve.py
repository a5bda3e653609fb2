"""`sparsec serve`: artifacts behind REST and gRPC."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import options
from sparsec.errors import ToolchainError, UsageError, counted


def command(
    artifacts: Annotated[list[str], typer.Argument(
        metavar="[NAME=]ARTIFACT...", help="Compiled models; each is served by NAME, else by its file's name.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of REST and /metrics.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Of gRPC; 0 for none.")] = 8081,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a run.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, help="Runs of a model at the same time.")] = 1,
    max_batch: Annotated[int, typer.Option(
        min=1, help="Rows of a run, of several requests together; 1 runs each by itself.")] = 32,
    max_delay: Annotated[float, typer.Option(min=0, help="Milliseconds that a request waits for others.")] = 0.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests of a model that may wait; others get 429.")] = 256,
    max_request: Annotated[float, typer.Option(min=0, help="Megabytes of a request; larger ones get 413.")] = 64.0,
    require_signature: options.PublicKey = None,
) -> None:
    """Serve compiled models by REST and gRPC.

    Both are of the Open Inference Protocol, version 2.
    """
    if importlib.util.find_spec("kserve") is None:
        raise ToolchainError("serving needs the package kserve; pip install 'sparsec[serve]'")
    paths = _named(artifacts)
    _check_cores(len(paths), threads, replicas)
    for flag, number in (("--port", port), ("--grpc-port", grpc_port)):
        _check_free(flag, number)
    from sparsec.serving.batching import Limits
    from sparsec.serving.opening import opened
    from sparsec.serving.server import serve

    sessions, limits = {}, {}
    for name, path in paths.items():
        sessions[name], limits[name], reason = opened(
            path, threads, Limits(max_batch, max_delay / 1e3, queue, replicas), require_signature)
        print(f"{name}: {f'each request runs by itself: {reason}' if reason else f'up to {max_batch} rows together'}",
              flush=True)
    serve(sessions, limits, port=port, grpc_port=grpc_port, most_bytes=int(max_request * 1e6))


def _named(artifacts: list[str]) -> dict[str, Path]:
    """The files by the names of their models."""
    found: dict[str, Path] = {}
    for each in artifacts:
        name, equals, path = each.partition("=")
        file = Path(path if equals else each)
        name = name if equals else file.stem
        if not file.is_file():
            raise UsageError(f"file '{file}' does not exist")
        if name in found:
            raise UsageError(f"two models are called '{name}'; give them names: NAME=ARTIFACT")
        found[name] = file
    return found


def _check_free(flag: str, port: int) -> None:
    """Raises UsageError where somebody else listens on a port."""
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port that rests is free
        try:
            found.bind(("0.0.0.0", port))  # noqa: S104 - as the server will
        except OSError as error:
            raise UsageError(f"port {port} cannot be served: {error.strerror}; give another, {flag} {port + 10}"
                             ) from error


def _check_cores(models: int, threads: int, replicas: int) -> None:
    """All threads that may run at the same time have a core each."""
    from sparsec.machine import cpus

    if (wanted := models * threads * replicas) > cpus.available() and threads * replicas > 1:
        raise UsageError(f"{counted(models, 'model')} of --replicas {replicas} with --threads {threads} keep "
                         f"{wanted} cores busy and this process may use {cpus.available()}; give fewer")
