"""Many clients of a server of HTTP/1.1 on this machine, each with a connection of its own, and what became of requests.

Bounded: `clients` connections to the loopback for `seconds`, each with one request at a time.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

try:  # a client that costs little leaves the machine to the server
    from uvloop import new_event_loop as LOOP
except ImportError:
    LOOP = asyncio.new_event_loop


@dataclass
class Load:
    """What became of requests: by HTTP's code, `refused` connections, and errors by their names.

    `seconds` are those of every answer of code 200, from when it was due.
    """

    counts: Counter = field(default_factory=Counter)
    seconds: list = field(default_factory=list)
    wrong: int = 0
    took: float = 0.0

    def percentiles(self):
        """The median and the 99th percentile of latencies in milliseconds."""
        return np.percentile(self.seconds, [50, 99]) * 1e3

    @property
    def rate(self):
        """Answers of code 200 a second."""
        return self.counts[200] / self.took

    def lost(self):
        """Requests that were sent and not answered, by the error."""
        return {name: n for name, n in self.counts.items() if isinstance(name, str) and name != "refused"}


STEADY = 0.5
"""Of the clients, the share that waits for answers on average, at most, where a server keeps up."""


def capacity(ask, most, clients=64, steps=10):
    """The highest of rising rates that a server sustains, its queue bounded: as many answers as requests come in.

    By Little's law the requests at hand are their rate times their time; where all clients wait, more would wait yet.

    Args:
        ask: called with a rate, the `Load` that comes of it.
        most: what answers a second all clients get who ask again at once: no server sustains more.
        clients: that `ask` has.
        steps: rates from two fifths of `most` on, evenly.

    """
    def sustains(rate):
        found = ask(rate)
        return found.rate > 0.98 * rate and found.rate * np.mean(found.seconds) < STEADY * clients

    sustained = 0.0
    for step in range(steps + 1):
        rate = most * (0.4 + 0.6 * step / steps)
        if not (sustains(rate) or sustains(rate)):  # what else the machine does may spoil one try
            break
        sustained = rate
    assert sustained, f"not even {rate:.0f} requests a second are sustained"
    return sustained


def load(port, path, bodies, *, check=None, clients=64, seconds=1.0, rate=None):
    """Have clients ask until the time is over, or until they are refused a connection.

    Args:
        port: of the server.
        path: of the requests.
        bodies: of the requests; client n sends number n modulo their number.
        check: whether an answer's body is right, called with the number of the request's body and the answer's.
        clients: connections.
        seconds: how long they ask.
        rate: requests a second of all clients together, evenly spread; None for as many as are answered.

    """
    async def run():
        found, begin = Load(), time.perf_counter()
        gap = None if rate is None else clients / rate
        await asyncio.gather(*(_client(port, _request(path, bodies[n % len(bodies)]), found, begin + (
            0 if gap is None else gap * n / clients), gap, begin + seconds,
            check and (lambda body, n=n: check(n % len(bodies), body))) for n in range(clients)))
        found.took = time.perf_counter() - begin
        return found

    with asyncio.Runner(loop_factory=LOOP) as runner:
        return runner.run(run())


def _request(path, body):
    return (f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


async def _client(port, request, found, due, gap, end, check):
    connection, right = None, set()  # bodies that were checked
    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due = time.perf_counter() if gap is None else due
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            found.counts["refused"] += 1
            return
        try:
            code, close, body = await _ask(*connection, request)
        except (OSError, EOFError) as error:
            found.counts[type(error).__name__] += 1
            connection = None
            continue
        found.counts[code] += 1
        if code == 200:
            found.seconds.append(time.perf_counter() - due)
            if check and body not in right:
                found.wrong += not check(body)
                right.add(body)
        if close:
            connection[1].close()
            connection = None
        due = time.perf_counter() if gap is None else due + gap
    if connection:
        connection[1].close()


async def _ask(reader, writer, request):
    """The code of an answer, whether it ends the connection, and its body."""
    writer.write(request)
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(status.split()[1]), headers.get("connection") == "close", body
