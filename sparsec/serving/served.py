"""A session as kserve serves it: requests of the Open Inference Protocol, version 2, over a queue, and their errors."""

from __future__ import annotations

import asyncio
import struct
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from grpc_interceptor.exceptions import InvalidArgument, ResourceExhausted, Unavailable
from prometheus_client import Counter, Gauge, Histogram

from sparsec.errors import SparsecError
from sparsec.runtime.session import InferenceSession
from sparsec.runtime.signature import TensorInfo
from sparsec.serving.batching import ClosedError, Limits, Queue, QueueFullError
from sparsec.serving.datatypes import DATATYPES

_arguments, sys.argv = sys.argv, sys.argv[:1]  # which kserve parses when it is imported
try:
    import kserve as kserve  # noqa: PLC0414 - other modules take it from here, where it reads no arguments
    import kserve.model_server
    from kserve.errors import InvalidInput, ModelNotReady
    from kserve.utils.utils import from_np_dtype
finally:
    sys.argv = _arguments

LATENCY = Histogram("sparsec_request_seconds", "From a request's coming to its outputs", ["model"],
                    buckets=(.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10))
ROWS = Histogram("sparsec_batch_rows", "Rows of a run", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64, 128))
WAITING = Gauge("sparsec_queue_requests", "Requests that wait", ["model"])
MOST_NAMED = 8
"""Inputs that a refusal lists."""
REFUSED = Counter("sparsec_refused_requests", "Requests that were refused, by HTTP's code", ["model", "code"])


class RefusedError(InvalidInput, InvalidArgument):
    """A request that the model cannot run: 400, or INVALID_ARGUMENT."""

    def __init__(self, reason: str) -> None:
        InvalidInput.__init__(self, reason)
        InvalidArgument.__init__(self, reason)


class FullError(ResourceExhausted):
    """The queue is full: 429, or RESOURCE_EXHAUSTED."""


class StoppingError(ModelNotReady, Unavailable):
    """The server is stopping: 503, or UNAVAILABLE."""

    def __init__(self, name: str, reason: str) -> None:
        ModelNotReady.__init__(self, name, reason)
        Unavailable.__init__(self, reason)
        self.reason = reason  # which kserve's gRPC reads, and its own error has not


class ServedModel(kserve.Model):
    """One session under kserve.

    Args:
        name: what requests call it.
        session: what runs them.
        limits: of its queue.

    """

    def __init__(self, name: str, session: InferenceSession, limits: Limits) -> None:
        super().__init__(name)
        self._session = session
        waits = session.get_providers()[0] != "CPUExecutionProvider"
        self._queue = Queue(session, limits, self._observe, time.monotonic if waits else time.thread_time)
        self._rows, self._latency = ROWS.labels(name), LATENCY.labels(name)
        self._due = False  # whether the loop is about to run what waits
        self._names = [each.name for each in session.get_outputs()]
        WAITING.labels(name).set_function(lambda: len(self._queue))
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs as the protocol describes them."""
        return [_described(each) for each in self._session.get_inputs()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs as the protocol describes them."""
        return [_described(each) for each in self._session.get_outputs()]

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:  # noqa: ARG002 - kserve's
        """The response to a request."""
        if not isinstance(payload, kserve.InferRequest):
            raise self._refused(400, RefusedError("requests are of the Open Inference Protocol, version 2: POST to "
                                                  f"/v2/models/{self.name}/infer"))
        return self.response(payload, await self.answers(payload))

    async def answers(self, payload: Any) -> list[tuple[str, np.ndarray]]:
        """The outputs that a request asks for, by name."""
        try:
            _check(payload, self._names)
            feeds = {each.name: _array(each) for each in payload.inputs}
            outputs = await self._outputs(feeds)
        except QueueFullError as error:
            raise self._refused(429, FullError(str(error))) from error
        except ClosedError as error:
            raise self._refused(503, StoppingError(self.name, str(error))) from error
        except (SparsecError, InvalidInput, ValueError, TypeError, struct.error) as error:
            raise self._refused(400, RefusedError(str(error))) from error
        wanted = {each.name for each in payload.request_outputs or ()} or set(self._names)
        return [(name, array) for name, array in zip(self._names, outputs, strict=True) if name in wanted]

    def response(self, payload: Any, found: Sequence[tuple[str, np.ndarray]]) -> Any:
        """The response to a request that has these outputs."""
        return kserve.InferResponse(response_id=payload.id or str(uuid.uuid4()), model_name=self.name,
                                    infer_outputs=[_output(name, array, payload) for name, array in found])

    def stop(self) -> None:
        """Take no more requests; those that wait are run."""
        self.ready = False
        self._queue.close(wait=False)

    def finish(self) -> None:
        """Take no more requests, and wait until those that wait have been run."""
        self.ready = False
        self._queue.close()

    def _outputs(self, feeds: Mapping[str, np.ndarray]) -> asyncio.Future[list[np.ndarray]]:
        """What a run gives, as soon as the loop has taken all requests that are there: they are rows of one run."""
        done = self._queue.submit(feeds, wake=False)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._run_now)
        return _awaitable(done)

    def _run_now(self) -> None:
        self._due = False
        self._queue.run_quick()

    def _refused(self, code: int, error: Exception) -> Exception:
        REFUSED.labels(self.name, code).inc()
        return error

    def _observe(self, rows: int, seconds: Sequence[float]) -> None:
        self._rows.observe(rows)
        for each in seconds:
            self._latency.observe(each)


def _awaitable(done: Future[list[np.ndarray]]) -> asyncio.Future[list[np.ndarray]]:
    """As `asyncio.wrap_future`, but what the loop's own thread has run is known at once, without waking the loop."""
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    found: asyncio.Future[list[np.ndarray]] = loop.create_future()

    def copy(ended: Future[list[np.ndarray]]) -> None:  # not `done`: it would hold itself, for the collector to find
        if found.cancelled():
            return
        if (error := ended.exception()) is None:
            found.set_result(ended.result())
        else:
            found.set_exception(error)

    def tell(ended: Future[list[np.ndarray]]) -> None:
        if ended.cancelled():
            return  # as `found` is
        if threading.get_ident() == thread:
            copy(ended)
        else:
            loop.call_soon_threadsafe(copy, ended)

    done.add_done_callback(tell)
    found.add_done_callback(lambda each: done.cancel() if each.cancelled() else None)
    return found


def _answer(code: int, **headers: str) -> Callable[[Any, Exception], Awaitable[Any]]:
    """HTTP's answer to requests that are refused, without a line in the log: REFUSED counts them."""
    async def answer(_request: Any, error: Exception) -> Any:
        from fastapi.responses import JSONResponse

        return JSONResponse({"error": str(error)}, status_code=code, headers=headers or None)

    return answer


ANSWERS = {RefusedError: _answer(400), FullError: _answer(429, **{"Retry-After": "1"}), StoppingError: _answer(503)}


def _check(payload: Any, outputs: Sequence[str]) -> None:
    """Raises InvalidInput for what kserve takes of a request and the protocol does not."""
    given = [each.name for each in payload.inputs]
    if len(set(given)) < len(given):
        raise InvalidInput(f"an input is given more than once: {', '.join(map(repr, given[:MOST_NAMED]))}")
    for each in payload.inputs:
        if any(size < 0 for size in each.shape):
            raise InvalidInput(f"input '{each.name}' has a negative size: {list(each.shape)}")
    if unknown := [each.name for each in payload.request_outputs or () if each.name not in outputs]:
        raise InvalidInput(f"the model has no output '{unknown[0]}'; its outputs are {', '.join(map(repr, outputs))}")


def _array(given: Any) -> np.ndarray:
    """An input's numbers. Raises InvalidInput where they are not what it declares."""
    try:
        return np.asarray(given.as_numpy())
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise InvalidInput(f"input '{given.name}' is declared {given.datatype} of shape {list(given.shape)}, and its "
                           f"data are not that: {error}") from error


def _output(name: str, array: np.ndarray, payload: Any) -> Any:
    """An output as the protocol has it, in binary where the request asks for that."""
    output = kserve.InferOutput(name=name, shape=list(array.shape), datatype=from_np_dtype(array.dtype))
    output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
    return output


def _described(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": DATATYPES.get(info.dtype.name, info.type),
            "shape": [size if isinstance(size, int) else -1 for size in info.shape]}
