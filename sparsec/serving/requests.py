"""What requests may hold, before a model is asked: their heads, and what kserve reads of their bodies."""

from __future__ import annotations

import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sparsec.serving.served import REFUSED, RefusedError

from kserve.protocol.dataplane import DataPlane  # isort: skip  # `served` has imported kserve

MOST_HEAD = 64 << 10
"""Bytes of a request's line and headers, beyond what comes with the first of them."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which ends connections whose request's line and headers have no end, with 400."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_head, self._head = False, 0

    def data_received(self, data: bytes) -> None:
        """The next bytes of a connection."""
        began = self._in_head
        super().data_received(data)
        self._head = self._head + len(data) if began and self._in_head else 0
        if self._head > MOST_HEAD and not self.transport.is_closing():
            REFUSED.labels("", 400).inc()
            self.send_400_response(f"the request's line and headers take over {MOST_HEAD} bytes")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its body begins."""
        self._in_head = False
        super().on_headers_complete()


class CheckedDataPlane(DataPlane):
    """kserve's, which refuses what it cannot read, with 400."""

    def decode(self, *arguments: Any, **named: Any) -> Any:
        """The request of a body."""
        try:
            return super().decode(*arguments, **named)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            REFUSED.labels("", 400).inc()
            raise RefusedError(f"not a request of the protocol: {error}") from error
