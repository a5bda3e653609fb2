"""TVM functions on the emulator: lower one as TVM's build does, then run what its host code launches, in order.

    outputs = call(function, *inputs_and_outputs, seed=0)   # numpy arrays by position; outputs change in place

Numbers among the arguments of a function are numbers in their place; launches may depend on them. A function that calls
a library calls what is registered with TVM by its name.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx.build import codegen_build, split_host_device_mods
from tvm_ffi import structural_map, structural_walk

from sparsec.kernels.cuda.pipeline import LIBRARY
from tests.support.cuda.emulator.emulate import Library, Map, compile_source

TARGET = tvm.target.Target({"kind": "cuda", "arch": "sm_80"}, host="llvm")
SWIZZLE_128 = 3
LAUNCH = "tirx.call_ffi_kernel"
ENCODE = "tirx.tensormap_encode_tiled"
AXES = ("x", "y", "z")
MOST_OF_CLUSTER = 8
MOST_BLOCKS = ((1 << 31) - 1, 65_535, 65_535)
"""Along each."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch; extents are numbers, or expressions of the function's; those of a cluster are numbers."""

    kernel: str
    grid: tuple
    block: tuple
    dynamic_shared: int
    cluster: tuple = (1, 1, 1)

    def told(self, arguments):
        """The launch for numbers by name."""
        grid, block = (tuple(evaluated(extent, arguments) for extent in each) for each in (self.grid, self.block))
        for extent, most in zip(grid, MOST_BLOCKS, strict=True):
            assert 0 < extent <= most, f"{self.kernel} has a grid of {grid} blocks"
        assert not any(extent % size for extent, size in zip(grid, self.cluster, strict=True))
        assert np.prod(self.cluster) <= MOST_OF_CLUSTER
        return Launch(self.kernel, grid, block, evaluated(self.dynamic_shared, arguments), self.cluster)


@dataclass(frozen=True)
class Program:
    """A lowered function: CUDA source, launches in order, names of parameters, scratch arrays and tensor maps.

    The host's code computes further numbers, `bound` by name, before it launches.
    """

    source: str
    launches: tuple
    parameters: tuple
    scratch: tuple
    maps: dict
    bound: dict

    def run(self, arrays, seed=0, library=None):
        """Run every launch on arrays in the order of the parameters; returns the launches' statistics."""
        library = library or compiled(self.source)
        arguments = dict(zip(self.parameters, arrays, strict=True))
        arguments |= {name: np.full(shape, -1).astype(dtype) for name, shape, dtype in self.scratch}
        arguments |= self.maps
        arguments = self.bound | arguments
        told = [launch.told(arguments) for launch in self.launches]
        for launch in told:
            numbers = {name for name, kind in library.kernels[launch.kernel]
                       if name in self.bound.keys() - self.maps.keys() and "*" not in kind}
            arguments |= {name: evaluated(arguments[name], arguments) for name in numbers}
        return [library.run(launch.kernel, launch.grid, launch.block, launch.dynamic_shared, arguments, seed,
                            launch.cluster)
                for launch in told]


@dataclass(frozen=True)
class LibraryCall:
    """A function that calls a library: the name and arguments of the call, and the parameters' names."""

    name: str
    arguments: tuple
    parameters: tuple

    def run(self, arrays, seed=0, library=None):
        """Call it on copies of the arrays, which begin as memory of a GPU does."""
        copies = dict(zip(self.parameters, map(_at_multiple, arrays), strict=True))
        tvm_ffi.get_global_func(self.name)(*[
            each.value if hasattr(each, "value") else ctypes.c_void_p(copies[_pointed(each)].ctypes.data)
            for each in self.arguments])
        for array, copy in zip(arrays, copies.values(), strict=True):
            if array.flags.writeable:
                array.reshape(-1)[...] = copy
        return []


def _at_multiple(array, of=256):
    memory = np.empty(array.nbytes + of, np.uint8)
    begin = -memory.ctypes.data % of
    copy = memory[begin:begin + array.nbytes].view(array.dtype)
    copy[...] = array.reshape(-1)
    return copy


@cache
def compiled(source) -> Library:
    """The library of a source, loaded once."""
    return compile_source(source)


def call(function, *arrays, seed=0, pipeline="s_tir"):
    """Lower a PrimFunc and run it; returns the statistics of its launches."""
    return lower(function, pipeline).run(arrays, seed)


def lower(function, pipeline="s_tir", target=TARGET):
    """The program of a PrimFunc."""
    parameters = tuple(p.name for p in function.params)
    if LIBRARY in function.attrs:
        call = function.body.value
        return LibraryCall(str(call.args[0].value), tuple(call.args[1:]), parameters)
    function = function.with_attr("global_symbol", "main").without_attr("tirx.private")
    passes, _, finalize_device = tirx.get_tir_pipeline(pipeline)
    with target:
        module = passes(tirx.transform.BindTarget(target)(tvm.IRModule({"main": function})))
    host, devices = split_host_device_mods(module)
    (device,) = devices.values()
    source = codegen_build(finalize_device()(device), target).inspect_source()
    launches, scratch, maps, bound = [], [], {}, {}

    def on_call(node):
        if getattr(node.op, "name", "") == LAUNCH:
            launches.append(_launch(node))
        if getattr(node.op, "name", "") == ENCODE:
            maps[node.args[0].name] = _map(node)

    def on_allocation(node):
        scratch.append((node.buffer.name, tuple(int(extent) for extent in node.buffer.shape), str(node.buffer.dtype)))

    def on_binding(node):
        bound[node.var.name] = node.value

    for func in host.functions.values():
        structural_walk(func.body, [(tvm.ir.Call, on_call), (tirx.AllocBuffer, on_allocation), (tirx.Bind, on_binding)])
    return Program(source, tuple(launches), parameters, tuple(scratch), maps, bound)


def _launch(node):
    """The launch of a host call: the kernel's name, its arguments, then the extents that the kernel asks for."""
    tags = [str(tag) for tag in node.attrs.launch_params]
    extents = dict(zip(tags, node.args[-len(tags):], strict=True))
    grid, block, cluster = (tuple(extents.get(f"{kind}Idx.{axis}", 1) for axis in AXES)
                            for kind in ("block", "thread", "clusterCta"))
    return Launch(str(node.args[0].value), grid, block, extents.get("tirx.use_dyn_shared_memory", 0),
                  tuple(map(int, cluster)))


def evaluated(extent, arguments):
    """The number that an extent is for arguments by name, numbers or expressions of others."""
    if isinstance(extent, int | np.integer):
        return int(extent)

    def number(variable):
        return tirx.const(evaluated(arguments[variable.name], arguments), str(variable.ty))

    return int(tvm.sym.Analyzer().simplify(structural_map(extent, (tirx.Var, number))))


def _map(node):
    """The tensor map of a matrix that a host call encodes."""
    _, base, *sizes = node.args
    columns, rows, stride, box_columns, box_rows, *_ = (int(size) for size in sizes)
    assert int(node.attrs.swizzle) == SWIZZLE_128
    return Map(_pointed(base), columns, rows, stride, box_columns, box_rows,
               np.dtype(str(node.attrs.descriptor_dtype)).itemsize)


def _pointed(base):
    """The name of the buffer whose begin an expression is."""
    return (base.args[0].name if isinstance(base, tvm.ir.Call) else base.name).removesuffix("_ptr")
