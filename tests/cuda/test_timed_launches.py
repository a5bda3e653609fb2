"""Both ways of launching a GPU's kernels are timed side by side; what fails meanwhile ends no compilation."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from onnx import TensorProto

from sparsec.backends.cuda.backend import CudaBackend
from sparsec.cli import tables
from sparsec.compiler import overlap
from sparsec.compiler.options import CompileOptions
from sparsec.errors import DeviceError, InputError, ToolchainError, VerificationError
from tests.support.cuda import networks


def relu(*sizes):
    """The bytes of a network of one operator."""
    graph = networks.Graph()
    graph("Relu", "x", name="y")
    return graph.model({"x": (TensorProto.FLOAT, sizes)}, {"y": sizes}).SerializeToString()


@dataclass
class Compiled:
    """An artifact as far as timing it asks."""

    report: dict
    manifest: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(needs={}))


class Machine:
    """A GPU: what it does is logged, and fails where `error` stands for it; a session takes at most `most` tokens."""

    def __init__(self, monkeypatch, errors=None, absent=None, most=1 << 20):
        self.errors, self.log, self.most = errors or {}, [], most
        monkeypatch.setattr(overlap, "_is_timed", lambda _options: True)
        monkeypatch.setattr(overlap, "InferenceSession", self.opened)
        monkeypatch.setattr(overlap, "fastest", lambda runs: ([run() for run in runs], [1e-5, 8e-6])[1])
        monkeypatch.setattr(CudaBackend, "missing", lambda _self, _needs=None: absent)

    def reach(self, where):
        self.log.append(where)
        if where in self.errors:
            raise self.errors[where]

    def compile(self, model, dims=None):
        @overlap.overlapped_if_faster
        def compile_one(_model, options):
            self.reach(f"compile {options.dependent_launch}")
            return Compiled({"way": options.dependent_launch})

        return compile_one(model, CompileOptions("cuda-sm90", dims=dims)).report

    def opened(self, artifact):
        way = artifact.report["way"]
        self.reach(f"open {way}")
        return SimpleNamespace(run=lambda _names, feeds: self.run(way, feeds["x"]),
                               close=lambda: self.log.append(f"close {way}"))

    def run(self, way, x):
        if x.shape[1] > self.most:
            raise InputError("an index is outside")
        self.reach(f"run {way}")


@pytest.mark.parametrize("error", [DeviceError("the GPU's memory does not hold it"), ToolchainError("it is missing"),
                                   VerificationError("output 'y' differs")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["compile on", "open off", "open on", "run off", "run on"])
def test_what_fails_when_both_ways_are_tried_leaves_the_way_that_waits(monkeypatch, where, error):
    machine = Machine(monkeypatch, {where: error})
    with pytest.warns(UserWarning, match=str(error)):
        assert machine.compile(relu(4, 8)) == {"way": "off"}
    opened = {each.split()[1] for each in machine.log if each.startswith("open") and each not in machine.errors}
    assert opened == {each.split()[1] for each in machine.log if each.startswith("close")}


def test_what_cannot_run_here_is_compiled_once_and_not_timed(monkeypatch):
    machine = Machine(monkeypatch, absent="cuBLASLt is missing")
    assert machine.compile(relu(4, 8)) == {"way": "off"}
    assert machine.log == ["compile off"]


@pytest.mark.parametrize(("dims", "most", "tokens"), [
    (None, 1 << 20, 128), (None, 64, 64), (None, 8, 1), ({"tokens": "1..20"}, 1 << 20, 20)])
def test_run_time_sizes_are_timed_at_usual_ones_that_the_model_takes(monkeypatch, dims, most, tokens):
    report = Machine(monkeypatch, most=most).compile(relu("batch", "tokens", 8), dims)
    assert report["overlap"]["shapes"] == {"x": [1, tokens, 8]}
    (told,) = tables.early(report)
    assert told.endswith(f"a call takes 8.0 us, and 10.0 us otherwise, measured with x 1x{tokens}x8")


def test_fixed_sizes_go_without_saying(monkeypatch):
    report = Machine(monkeypatch).compile(relu(4, 8))
    assert report == {"way": "on", "overlap": {"early": True, "off_us": 10.0, "on_us": 8.0, "shapes": None}}
