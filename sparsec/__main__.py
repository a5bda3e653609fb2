"""The program `sparsec`, also as `python -m sparsec`: Ctrl-C ends it with one line, wherever it comes."""

from __future__ import annotations

import importlib.util
import signal
import sys
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a program that Ctrl-C ended, as shells have it."""


class _Interrupt:
    """The handler of Ctrl-C, which remembers it: what crosses a callback of TVM arrives as another exception."""

    came = False

    def __call__(self, *_signal: object) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


def main() -> None:
    """Run the command line; exits with 0 when done, 1 when it failed, 2 when it was used wrongly, 130 on Ctrl-C."""
    interrupt = _Interrupt()
    signal.signal(signal.SIGINT, interrupt)
    try:
        if importlib.util.find_spec("sparsec.cli") is None:
            sys.exit("sparsec: error: sparsec-runtime has no commands; install sparsec in its place")
        from sparsec.cli import main as run  # takes a while to import, in which Ctrl-C may come already

        run(lambda: interrupt.came)
    except BaseException:
        if interrupt.came:
            sys.stderr.write("sparsec: error: interrupted\n")
            sys.exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
