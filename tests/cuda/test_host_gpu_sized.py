"""Sessions of models for run-time sizes on a GPU that obeys CUDA's rules without its arithmetic: graphs, memory, ends.

What kernels compute is `test_cuda_any_size.py`'s.
"""


import onnx
import pytest

import sparsec
from sparsec.backends.cuda import driver
from tests.support import decoders
from tests.support.cuda import host_gpu, networks
from tests.support.cuda.sass import needs_nvcc

pytestmark = [
    needs_nvcc,
    pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc"),
    pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here"),
]

SHARED = """
import gc, json, os, sys, threading
import numpy as np
from tests.support.cuda import host_gpu
from tests.support.cuda.host_gpu import changed, refused
from sparsec.runtime.sized import device
from sparsec.runtime.session import InferenceSession
path = sys.argv[1] + "/model.sparsec"
def feeds(batch, tokens):
    return {"ids": np.zeros((batch, tokens), np.int64), "mask": np.ones((batch, tokens), np.int64)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the libraries and an artifact."""
    folder = tmp_path_factory.mktemp("host_gpu_sized")
    host_gpu.build(folder)
    onnx.save(networks.symbolic(networks.transformer(), "batch", "sequence"), folder / "model.onnx")
    sparsec.compile(folder / "model.onnx", "cuda-sm80", dims={"batch": "1..2", "sequence": "1..64"}
                    ).save(folder / "model.sparsec")
    return folder


@pytest.fixture
def told(folder):
    """What a script prints as JSON on the host's GPU."""
    return lambda script, **settings: host_gpu.told(folder, SHARED + script, **settings)


def test_sizes_are_recorded_at_first_use_and_replayed_without_asking_for_memory(told):
    found = told("""
session = InferenceSession(path)
shapes = [session.run(None, feeds(*size))[0].shape for size in ((1, 7), (2, 16), (1, 1))]
before = host_gpu.counts()
for size in ((1, 7), (2, 16), (1, 1)) * 10:
    session.run(None, feeds(*size))
print(json.dumps({"shapes": shapes, "changed": changed(before), "live": host_gpu.counts()["live_executable"]}))
""")
    assert found["shapes"] == [[1, 7, 8], [2, 16, 8], [1, 1, 8]]
    assert found["live"] == 3
    assert found["changed"] == {"copies": 90, "replays": 30}  # indices, mask and output


def test_few_sizes_are_kept_and_closing_gives_everything_back(told):
    found = told("""
import gc
gc.disable()  # nothing refers to itself
device.MOST = 2
first = InferenceSession(path)
first.run(None, feeds(1, 3))
first.close()
del first
empty, live = host_gpu.counts(), []
session = InferenceSession(path)
for tokens in (3, 9, 20, 64, 3):
    session.run(None, feeds(2, tokens))
    live.append(host_gpu.counts()["live_executable"])
session.close()
del session
left = changed(empty)
print(json.dumps({"live": live, "left": {name: count for name, count in left.items() if name.startswith("live")},
                  "early": host_gpu.counts()["freed_early"]}))
""")
    assert found == {"live": [1, 2, 2, 2, 2], "left": {}, "early": 0}


def test_memory_grows_where_sizes_need_more(told):
    found = told("""
device.FIRST_BYTES, device.FIRST_PINNED = 1 << 14, 1 << 10
session = InferenceSession(path)
for tokens in (3, 64, 3):
    session.run(None, feeds(2, tokens))
before = host_gpu.counts()
session.run(None, feeds(2, 3))
print(json.dumps({"changed": changed(before), "early": before["freed_early"], "live": before["live_executable"]}))
""")
    assert found == {"changed": {"copies": 3, "replays": 1}, "early": 0, "live": 2}


def test_memory_grows_to_what_there_is_and_smaller_pieces_go_first(told):
    found = told("""
session = InferenceSession(path)
(engine,) = [each for each in gc.get_objects() if isinstance(each, device.DeviceRunner)]
before, room = host_gpu.counts(), []
for bytes_ in (1 << 20, 1 << 22):
    engine._take(bytes_)
    engine._take_pinned(bytes_)
    room.append(changed(before))
fixed = host_gpu.counts()["bytes"] - engine._room
os.environ["HOST_GPU_BYTES"] = str(fixed + (1 << 18) - 1)
engine._take(1 << 16)
sizes, real = [], engine._take
def take(*rooms):
    real(*rooms)
    sizes.append(engine._room)
engine._take = take
session.run(None, feeds(2, 60))
os.environ["HOST_GPU_BYTES"] = str(fixed + (1 << 16))
engine._take(1 << 15)
print(json.dumps({"room": room, "sizes": sizes, "refused": refused(lambda: session.run(None, feeds(2, 64))),
                  "early": host_gpu.counts()["freed_early"]}))
""")
    assert found["room"][1]["bytes"] - found["room"][0]["bytes"] == (1 << 22) - (1 << 20)
    assert all("live_pinned" not in each and "live_device" not in each for each in found["room"])
    assert found["sizes"][0] == 1 << 17  # twice as much
    assert 1 << 17 < found["sizes"][1] < 1 << 18  # for which there is no memory
    assert found["refused"].startswith("DeviceError: the GPU's memory does not hold a call of such sizes: it needs ")
    assert found["early"] == 0


def test_calls_go_on_after_one_for_which_too_little_memory_can_be_pinned(told):
    found = told("""
device.FIRST_PINNED = 1 << 11
session = InferenceSession(path)
session.run(None, feeds(1, 1))
os.environ["HOST_GPU_PINNED"] = str(1 << 12)
errors = [refused(lambda: session.run(None, feeds(*size))) for size in ((2, 64), (1, 1), (2, 64))]
del os.environ["HOST_GPU_PINNED"]
print(json.dumps([*errors, session.run(None, feeds(2, 64))[0].shape]))
""")
    for line in found[0], found[2]:
        assert line.startswith("DeviceError: the processor's memory has no 0.0 MB left that can be pinned")
    assert (found[1], found[3]) == (None, [2, 64, 8])


def test_nothing_is_collected_while_work_is_recorded_and_interrupted_recordings_leave_nothing(told):
    found = told("""
from sparsec.backends.cuda import cudart
from sparsec.backends.cuda.lanes import Lane
from sparsec.machine.memory import Launch
class Session:  # of another caller, which only the collector ends
    def __init__(self):
        self.own, self.memory = self, cudart.handle("cudaMalloc", 256)
    def __del__(self):
        cudart.call("cudaFree", self.memory)
lane, turns = Lane(), []
gc.collect()
before = host_gpu.counts()
def kernel():
    turns.append(len(turns))
    if len(turns) == 2:  # while it is recorded
        held.clear()
        [[] for _ in range(10 ** 5)]
        kept = [[] for _ in range(10 ** 5)]
def interrupted():
    turns.append(len(turns))
    if len(turns) == 6:
        raise KeyboardInterrupt
held = [Session()]
lane.record([Launch(kernel, [])])()
first = gc.isenabled()
gc.disable()
lane.record([Launch(lambda: None, [])])
second = gc.isenabled()
gc.enable()
turns[:] = range(4)
try:
    lane.record([Launch(interrupted, [])])
except KeyboardInterrupt:
    pass
lane.record([Launch(lambda: None, [])])()
gc.collect()
left = {name: count for name, count in changed(before).items() if name.startswith("live")}
print(json.dumps({"left": left, "enabled": [first, second, gc.isenabled()]}))
""")
    assert found == {"left": {}, "enabled": [True, False, True]}


def test_threads_have_memory_and_graphs_of_their_own(told):
    found = told("""
session, wrong = InferenceSession(path), []
barrier = threading.Barrier(4)
def work(number):
    barrier.wait()
    for turn in range(20):
        if session.run(None, feeds(1 + number % 2, 1 + turn % 3))[0].shape != (1 + number % 2, 1 + turn % 3, 8):
            wrong.append(turn)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
counts = host_gpu.counts()
print(json.dumps({"wrong": wrong, "streams": counts["live_stream"], "early": counts["freed_early"],
                  "made": counts["made_executable"]}))
""")
    assert not found["wrong"]
    assert found["early"] == 0
    assert 6 <= found["made"] <= 6 * found["streams"]  # six sizes, each once for every call in flight


def test_threads_record_while_others_do(told):
    found = told("""
from sparsec.backends.cuda.lanes import Lane
from sparsec.machine.memory import Launch
session, failed, turns = InferenceSession(path), [], []
session.run(None, feeds(1, 1))
def other():
    try:
        session.run(None, feeds(2, 9))
        InferenceSession(path).run(None, feeds(2, 9))
    except Exception as error:
        failed.append(str(error))
thread = threading.Thread(target=other)
def kernel():
    turns.append(len(turns))
    if len(turns) == 2:  # while it is recorded
        thread.start()
        thread.join(0.5)
Lane().record([Launch(kernel, [])])()
thread.join()
print(json.dumps({"failed": failed, "turns": turns, "made": host_gpu.counts()["made_executable"]}))
""")
    assert found == {"failed": [], "turns": [0, 1], "made": 4}


def test_what_cannot_be_is_refused_in_a_line(told):
    found = told("""
session = InferenceSession(path)
session.run(None, feeds(1, 1))
read, write = os.pipe()
if os.fork() == 0:
    calls = (lambda: session.run(None, feeds(1, 1))), (lambda: session.run(None, feeds(2, 9))), session._sized.runner
    os.write(write, json.dumps(list(map(refused, calls))).encode())
    os._exit(0)
os.wait()
print(json.dumps([refused(lambda: session.run(None, feeds(1, 65))), refused(lambda: session.run(None, feeds(3, 1))),
                  refused(lambda: session.run_with_device(None, {})), *json.loads(os.read(read, 1000))]))
""")
    for line, part in zip(found, ("dimension 'sequence' is 65 in input 'ids', and the artifact was compiled for 1 to",
                                  "dimension 'batch' is 3", "takes arrays, on a GPU as well",
                                  *["DeviceError: CUDA does not survive a fork"] * 3), strict=True):
        assert part in line
        assert "\n" not in line


def test_too_little_memory_says_how_much_is_needed(told):
    found = told("print(json.dumps(refused(lambda: InferenceSession(path))))", HOST_GPU_BYTES="1000000")
    assert found.startswith("DeviceError: the GPU's memory does not hold a call of such sizes: it needs 67.1 MB")


@pytest.fixture(scope="module")
def decoder(folder):
    """The folder, with a decoder's artifact."""
    sparsec.compile(decoders.model_of(decoders.DECODER), "cuda-sm80", verify=False,
                    dims={"batch": 1, "tokens": "1..16"}).save(folder / "decoder.sparsec")
    return folder


@pytest.mark.usefixtures("decoder")
def test_caches_of_any_length_are_one_graph_and_a_token_sends_none_of_them(told):
    found = told("""
from tests.support.decoders import DEPTH, GROUPS
session = InferenceSession(sys.argv[1] + "/decoder.sparsec")
def step(tokens, keys, values):
    outputs = session.run(None, {"ids": np.zeros((1, tokens), np.int64), "keys": keys, "values": values})
    return outputs[1:]
def empty():
    return [np.zeros((1, GROUPS, 0, DEPTH), np.float32)] * 2
caches = step(1, *step(5, *empty()))
before = host_gpu.counts()
for turn in range(400):
    caches = step(1, *caches)
steady = changed(before)
step(1, *[each.copy() for each in step(1, *empty())])
before = host_gpu.counts()
step(1, *caches)
sent = changed(before)
for turn in range(200):
    caches = step(1, *caches)
binding = session.io_binding()
for name, value in zip(("ids", "keys", "values"), (np.zeros((1, 1), np.int64), *caches)):
    binding.bind_cpu_input(name, value)
for each in session.get_outputs():
    binding.bind_output(each.name)
before = host_gpu.counts()
session.run_with_iobinding(binding)
bound = changed(before)
caches = binding.copy_outputs_to_cpu()[1:]
print(json.dumps({"steady": steady, "sent": sent, "bound": bound, "length": caches[0].shape[2], "live":
                  host_gpu.counts()["live_executable"], "early": host_gpu.counts()["freed_early"]}))
""")
    assert found["steady"] == {"copies": 6 * 400, "replays": 400}
    assert found["sent"] == {"copies": 6 + 2 * 2, "replays": 1}  # the keys and values of two groups
    assert found["bound"] == {"copies": 6, "replays": 1}
    assert found["length"] == 607
    assert (found["live"], found["early"]) == (1, 0)  # there was room for 512
