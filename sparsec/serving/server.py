"""The server of `sparsec serve`: kserve's REST and gRPC of the Open Inference Protocol, version 2, over queues."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop

from sparsec.runtime.session import InferenceSession
from sparsec.serving.batching import Limits
from sparsec.serving.drain import SETTLE_S, Application, Draining, DrainingServer, Receive, Send
from sparsec.serving.inference import Front, Inference
from sparsec.serving.requests import BoundedProtocol, CheckedDataPlane
from sparsec.serving.served import ANSWERS, REFUSED, ServedModel, kserve

from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING  # isort: skip  # `served` has imported kserve
from kserve.protocol.grpc.server import GRPCServer  # isort: skip
from kserve.protocol.model_repository_extension import ModelRepositoryExtension  # isort: skip
from kserve.protocol.rest.server import RESTServer  # isort: skip

GRACE_S = 30
"""What requests at hand may take when the server ends."""
GRPC_THREADS = 4
GARBAGE = 50_000
"""Objects more than before that have Python look for cycles, which halts all requests: more than those of requests at
hand come to, which are freed without."""
KEEP_ALIVE_S = 65
"""How long connections without a request stay: longer than those of proxies."""


FORESEEN = (*ANSWERS, kserve.errors.ModelNotFound, kserve.errors.ModelNotReady)
"""What requests are refused by."""


@dataclass(frozen=True)
class SizeLimit:
    """Refuses requests whose body has more bytes, with 413."""

    app: Application
    most: int

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request."""
        length = dict(scope.get("headers", ())).get(b"content-length", b"0" if scope.get("method") == "GET" else b"")
        if scope["type"] != "http" or (length.isdigit() and int(length) <= self.most):
            await self.app(scope, receive, send)
            return
        code, reason = (413, f"the request has {int(length)} bytes; at most {self.most} are taken"
                        ) if length.isdigit() else (411, "the request does not tell its length")
        REFUSED.labels("", code).inc()
        body = ('{"error":"' + reason + '"}').encode()
        await send({"type": "http.response.start", "status": code, "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


def rest_application(models: kserve.ModelRepository, draining: Draining, most_bytes: int) -> Any:
    """The application, in ASGI's sense, of kserve's REST with sparsec's limits and errors. A process has one.

    Args:
        models: what it serves.
        draining: has its answers end their connections.
        most_bytes: of a request's body.

    """
    app = kserve.model_server.app
    app.add_middleware(draining.middleware)
    app.add_middleware(SizeLimit, most=most_bytes)
    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    data, extension = CheckedDataPlane(models), ModelRepositoryExtension(models)
    RESTServer(FASTAPI_APP_IMPORT_STRING, data, extension, 0).create_application()
    # kserve's TimingMiddleware looks every path up, for lines of a log that has none here.
    app.user_middleware = [each for each in app.user_middleware if each.cls.__name__ != "TimingMiddleware"]
    inference = SizeLimit(Inference(data, app.exception_handlers), most_bytes)
    return Front(draining.middleware(inference), app)


def serve(sessions: Mapping[str, InferenceSession], limits: Mapping[str, Limits], *, port: int, grpc_port: int,
          most_bytes: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests at hand (`drain`).

    Args:
        sessions: by the names of the models.
        limits: of every model's queue.
        port: of REST and of the metrics.
        grpc_port: of gRPC; 0 for none.
        most_bytes: of a request's body.

    """
    kserve.logging.configure_logging()
    warnings.filterwarnings("ignore", "ORJSONResponse is deprecated")  # kserve gives it to FastAPI, which warns
    for name in ("uvicorn.access", "uvicorn.error", "kserve.trace", "kserve"):  # lines of every request and every start
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(_is_unforeseen)
    models = kserve.ModelRepository()
    for name, session in sessions.items():
        models.update(ServedModel(name, session, limits[name]))
    uvloop.run(_serve(models, port, grpc_port, most_bytes))


def _is_unforeseen(record: logging.LogRecord) -> bool:
    """Whether a line of the log is about something else than a request that was refused, whose answer says why."""
    return not (record.exc_info and isinstance(record.exc_info[1], FORESEEN))


async def _serve(models: kserve.ModelRepository, port: int, grpc_port: int, most_bytes: int) -> None:
    """Both protocols until a signal, then what waits."""
    draining = Draining()
    config = uvicorn.Config(rest_application(models, draining, most_bytes), host="0.0.0.0", port=port,  # noqa: S104 - docs/serving.md says so
                            http=BoundedProtocol, log_config=None, access_log=False, proxy_headers=False,
                            timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=GRACE_S)
    lengths = dict.fromkeys(("grpc_max_send_message_length", "grpc_max_receive_message_length"), most_bytes)
    grpc = GRPCServer(grpc_port, CheckedDataPlane(models), ModelRepositoryExtension(models), lengths, GRACE_S)
    running = [asyncio.create_task(grpc.start(GRPC_THREADS))] if grpc_port else []

    async def afterwards() -> None:
        for model in models.get_models().values():  # whose requests are refused from now on, so that gRPC has none left
            await asyncio.to_thread(model.finish)
        await asyncio.sleep(SETTLE_S)
        await grpc.stop()

    def ready() -> None:
        grpc_too = f", and by gRPC at localhost:{grpc_port}" if grpc_port else ""
        print(f"serving at http://localhost:{port}/v2/models/NAME/infer{grpc_too}; Ctrl-C ends it", flush=True)  # noqa: T201 - for who has called the command

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)  # uvicorn raises it once more when all is done
    gc.freeze()  # collecting what kserve has loaded would halt all requests for a tenth of a second
    gc.set_threshold(GARBAGE)
    await DrainingServer(config, draining, ready, afterwards).serve()
    await asyncio.gather(*running)
