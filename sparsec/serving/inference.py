"""REST's inference without FastAPI's routing, dependencies and copies, which take longer than a small model's run."""

from __future__ import annotations

from typing import Any

import pydantic
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sparsec.serving.drain import Receive, Send
from sparsec.serving.served import REFUSED, RefusedError

from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER, PredictorProtocol  # isort: skip  # `served` has imported kserve
from kserve.errors import ModelNotReady  # isort: skip
from kserve.protocol.dataplane import DataPlane  # isort: skip
from kserve.protocol.rest.v2_datamodels import InferenceRequest, InferenceResponse  # isort: skip

PATH = "/v2/models/{model_name}/infer"
REPLACED = ("content-length", "content-type")
"""Headers that the answer has of its own."""


class Inference:
    """The application, in ASGI's sense, that answers POST to `PATH` as kserve's does.

    Args:
        data: kserve's, with the models.

    """

    def __init__(self, data: DataPlane) -> None:
        self._data = data

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request; what it raises has an answer among the application's handlers of errors."""
        request = Request(scope, receive)
        name, headers, body = request.path_params["model_name"], dict(request.headers), await request.body()
        if not await self._data.model_ready(name, True):
            raise ModelNotReady(name)
        given = body if INFERENCE_CONTENT_LENGTH_HEADER in headers else _parsed(name, body)
        asked, _ = self._data.decode(given, headers, PredictorProtocol.REST_V2.value, name)
        found, own = await self._data.infer(name, asked, headers)
        content, more = self._data.encode(name, found, headers, {})
        text = content if isinstance(content, bytes) else InferenceResponse.model_validate(content).model_dump_json()
        kept = {key: value for key, value in {**own, **more}.items() if key not in REPLACED}
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        await Response(text, headers=kept, media_type=kind)(scope, receive, send)


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


def direct_route(data: DataPlane) -> Route:
    """The route of `PATH`."""
    return Route(PATH, Inference(data), methods=["POST"])
