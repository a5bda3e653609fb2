"""Lower, build and run a model through TVM's virtual machine, for the tests of the backends."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime
import tvm
from onnx_ir import serde
from tvm import relax

from sparsec.backends.cpu.build import build
from sparsec.backends.cpu.lower import lower
from sparsec.target import resolve


def machine_of(program):
    """The virtual machine of a program."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.so"
        path.write_bytes(program.library)
        return relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())


def run(program, feeds):
    """The outputs of a program, in order, as numpy arrays."""
    arguments = [*(feeds[spec.name] for spec in program.inputs), *program.constants]
    return [output.numpy() for output in machine_of(program)[program.entry](*map(tvm.runtime.tensor, arguments))]


def model_of(text):
    """An onnx_ir model from ONNX's text syntax, with inferred shapes."""
    return serde.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True))


def compile_and_run(model, feeds, target="cpu", threads=1):
    """The outputs of an onnx_ir model on a CPU target."""
    return run(build(lower(model, resolve(target), threads)), feeds)


def onnxruntime_run(model, feeds):
    """The outputs of onnxruntime, in order."""
    content = serde.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)
