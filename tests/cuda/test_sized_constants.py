"""Constants that kernels between stages read on a GPU, of which all runners of a program share one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sparsec.runtime.sized.device_between import Between
from sparsec.runtime.sized.device_kernels import DeviceKernels
from sparsec.runtime.sized.held import Value
from tests.support.cuda.sized import Lane

THREADS = 4


def test_threads_that_meet_a_constant_first_send_it_once_and_keep_it():
    kernels, lane, sent = DeviceKernels({}, {}, None, (), "float16", {}, ()), Lane(), []
    all_meet = threading.Barrier(THREADS)
    lane.allocate = lambda nbytes: sent.append(np.zeros(nbytes, np.uint8)) or sent[-1]
    lane.do = lambda _: time.sleep(0.05)

    def meet(_):
        recording = object.__new__(Between)
        vars(recording).update(_kernels=kernels, _lane=lane, kept=[], stands=[],
                               _values={"table": Value(np.ones(4, np.float64))})
        all_meet.wait()
        return recording._standing("table", np.dtype(np.float32)), recording

    with ThreadPoolExecutor(THREADS) as threads:
        met = list(threads.map(meet, range(THREADS)))
    [memory] = sent
    for array, recording in met:
        assert array is met[0][0]
        assert recording.kept[0] is recording.stands[0][2] is memory
