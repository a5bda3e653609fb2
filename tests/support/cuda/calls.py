"""Calls from several threads of an artifact for any size, by a process of its own: `python -m tests.support.cuda.calls
ARTIFACT THREADS CALLS`.

The artifact is of `networks.transformer`. Half of the calls are made, the GPU's memory is looked at, and the others
are made; what they have taken is printed.
"""

import sys
import threading

import numpy as np

from sparsec.backends.cuda import cudart
from sparsec.runtime.session import InferenceSession

SIZES = (1, 1), (2, 7), (1, 16), (2, 33)


def feeds_of(batch, tokens):
    return {"ids": np.zeros((batch, tokens), np.int64), "mask": np.ones((batch, tokens), np.int64)}


def main(path, threads, calls):
    session = InferenceSession(path)
    expected = {size: session.run(None, feeds_of(*size))[0] for size in SIZES}
    wrong = []

    def work(number):
        for turn in range(calls // threads // 2):
            size = SIZES[(turn + number) % len(SIZES)]
            if not np.array_equal(session.run(None, feeds_of(*size))[0], expected[size]):
                wrong.append(size)

    free = []
    for _ in range(2):
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        free.append(cudart.free_bytes()[0])
    sys.exit(f"wrong: {wrong[:9]}" if wrong else 0 if free[1] >= free[0] else f"grown by {free[0] - free[1]} bytes")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
