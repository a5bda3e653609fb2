"""How a server of HTTP/1.1 ends without losing a request: nobody new comes in, all who ask are answered and told.

uvicorn by itself closes its socket while the kernel holds connections that it has accepted, and closes connections
between two requests while the next one is on its way; both reset what a client has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

SETTLE_S = 0.2
"""What handshakes take that have begun before connections are refused."""
IDLE_S = 5.0
"""How long connections without a request may still send one, which is answered."""
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER, which Python has no name for
_UNLESS_ASKED = (  # classic BPF on a TCP header: drop what begins a connection, keep the rest
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x45, 0, 1, 0x02),  # SYN is set: the next instruction, else the one behind
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


class Draining:
    """Whether the server is about to end, and the part of the application that tells so in every answer."""

    def __init__(self) -> None:
        self.begun = False

    def middleware(self, app: Application) -> Application:
        """The application, whose answers end their connections once the server is about to."""
        async def call(scope: Any, receive: Receive, send: Send) -> None:
            async def tell(message: Any) -> None:
                if self.begun and message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
                await send(message)

            await app(scope, receive, tell)

        return call


class DrainingServer(uvicorn.Server):
    """uvicorn, ending as above.

    Args:
        config: of uvicorn; `timeout_graceful_shutdown` bounds what requests at hand may take.
        draining: of the application.
        ready: called when it listens.
        afterwards: ends what else listens in this process.

    """

    def __init__(self, config: uvicorn.Config, draining: Draining, ready: Callable[[], None],
                 afterwards: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._draining, self._ready, self._afterwards = draining, ready, afterwards

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in, have those who are there ask once more, and end."""
        for server in self.servers:
            for listening in server.sockets:
                drop_new_connections(listening)
        await asyncio.sleep(SETTLE_S)  # the loop accepts what the kernel has
        self._draining.begun = True
        for server in self.servers:
            server.close()
        end = time.monotonic() + IDLE_S
        while self.server_state.connections and time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        await self._afterwards()


def drop_new_connections(listening: Any) -> None:
    """Have the kernel ignore who asks for a connection, and complete those handshakes that have begun.

    Who asks does so again in a second, and is refused by then. Systems without such filters go on accepting.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in _UNLESS_ASKED))
    with contextlib.suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER,
                             struct.pack("@HP", len(_UNLESS_ASKED), ctypes.addressof(program)))
