"""REST's inference, in front of FastAPI's layers and copies, which take longer than a small model's run."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pydantic
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sparsec.serving.drain import Application, Receive, Send
from sparsec.serving.served import REFUSED, RefusedError, ServedModel

from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER, PredictorProtocol  # isort: skip  # `served` has imported kserve
from kserve.protocol.dataplane import DataPlane  # isort: skip
from kserve.protocol.rest.v2_datamodels import InferenceRequest, InferenceResponse  # isort: skip
from kserve.utils.numpy_codec import from_np_dtype  # isort: skip

BEFORE, BEHIND = "/v2/models/", "/infer"
"""What a model's name is between in the path of its inferences."""
REPLACED = ("content-length", "content-type")
"""Headers that the answer has of its own."""
WRITTEN = frozenset("?bhilqBHILQfd")
"""Characters of numpy's types that are written into JSON as they lie in memory; not those of half precision."""

Handler = Callable[[Any, Exception], Awaitable[Response]]


class Front:
    """An application, in ASGI's sense, that has POST to a model's inference answered by one, all else by another."""

    def __init__(self, inference: Application, others: Application) -> None:
        self._inference, self._others = inference, others

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request, or the span of the server's life."""
        asks = scope["type"] == "http" and scope["method"] == "POST" and _model_of(scope["path"])
        await (self._inference if asks else self._others)(scope, receive, send)


class Inference:
    """The application that answers inferences as kserve's does.

    Args:
        data: kserve's, with the models.
        handlers: what answers errors, by their classes.

    """

    def __init__(self, data: DataPlane, handlers: Mapping[Any, Handler]) -> None:
        self._data, self._handlers = data, handlers

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            text, kept, kind = await self._answer(scope, receive)
        except Exception as error:
            known = [each for each in type(error).__mro__ if each in self._handlers]
            if not known:
                raise
            await (await self._handlers[known[0]](Request(scope, receive), error))(scope, receive, send)
            if known[0] is Exception:  # which nobody has foreseen, and the log tells
                raise
            return
        headers = [(b"content-type", kind), (b"content-length", str(len(text)).encode()), *(
            (key.encode(), str(value).encode()) for key, value in kept.items())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def _answer(self, scope: Any, receive: Receive) -> tuple[bytes, Mapping[str, Any], bytes]:
        """The answer's body, its further headers, and its type."""
        name = _model_of(scope["path"])
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        body = await _body(receive)
        model = await self._data.get_model(name)  # which is ready
        given = body if INFERENCE_CONTENT_LENGTH_HEADER in headers else _parsed(name, body)
        asked, _ = self._data.decode(given, headers, PredictorProtocol.REST_V2.value, name)
        if isinstance(model, ServedModel) and _wants_text(asked, headers):
            found = await model.answers(asked)
            if WRITTEN.issuperset(array.dtype.char for _, array in found):
                return _written(name, asked.id, found), {}, b"application/json"
            response, own = model.response(asked, found), {}
        else:
            response, own = await self._data.infer(name, asked, headers)
        content, more = self._data.encode(name, response, headers, {})
        kept = {key: value for key, value in {**own, **more}.items() if key not in REPLACED}
        if isinstance(content, bytes):
            return content, kept, b"application/octet-stream"
        return InferenceResponse.model_validate(content).model_dump_json().encode(), kept, b"application/json"


async def _body(receive: Receive) -> bytes:
    """A request's body. Raises ClientDisconnect where who asks is gone."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _model_of(path: str) -> str:
    """The model whose inference a path asks for; empty where it asks for something else."""
    if not (path.startswith(BEFORE) and path.endswith(BEHIND)):
        return ""
    name = path[len(BEFORE):-len(BEHIND)]
    return "" if "/" in name else name


def _wants_text(asked: Any, headers: Mapping[str, str]) -> bool:
    """Whether all outputs are to be JSON, and the answer no CloudEvent."""
    events = "ce-specversion" in headers or headers.get("content-type") == "application/cloudevents+json"
    return not (events or asked.use_binary_outputs or any(each.parameters for each in asked.request_outputs or ()))


def _written(name: str, asked: str | None, found: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """The response in JSON, where NaN and infinities are null."""
    outputs = [{"name": output, "shape": array.shape, "datatype": from_np_dtype(array.dtype), "parameters": None,
                "data": np.ascontiguousarray(array).reshape(-1)} for output, array in found]
    text: bytes = orjson.dumps({"model_name": name, "model_version": None, "id": asked or str(uuid.uuid4()),
                         "parameters": None, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return text


def _parsed(name: str, body: bytes) -> InferenceRequest:
    """The request of a body in JSON."""
    try:
        return InferenceRequest.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        REFUSED.labels(name, 400).inc()
        raise RefusedError(f"the request is not one of the Open Inference Protocol, version 2: "
                           f"{f'{where}: ' if where else ''}{first['msg']}") from None
