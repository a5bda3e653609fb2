#!/usr/bin/env python3
"""Large decoders with random weights, written weight by weight as ONNX with external data: it takes little memory.

    python make_large.py OUT_DIR [NAME ...]        e.g. 0.3b 1b 3b

Like Llama (Touvron et al. 2023) as Optimum exports it: run-time batch, sequence and past, grouped queries, a cache for
every layer. Half of every linear layer's weights but the last are zero, at random places. Weights are float16 and are
cast to float32, in which everything is computed.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 32000
DENSITY = 0.5


@dataclass(frozen=True)
class Size:
    """What a decoder consists of."""

    layers: int
    width: int
    heads: int
    groups: int
    inner: int

    @property
    def depth(self) -> int:
        return self.width // self.heads


SIZES = {"tiny": Size(2, 256, 4, 2, 512), "0.3b": Size(20, 1024, 16, 4, 2816), "1b": Size(20, 2048, 16, 4, 5632),
         "3b": Size(30, 3072, 24, 8, 8192)}


class Writer:
    """The graph so far; weights go to the file of external data at once."""

    def __init__(self, data: IO[bytes]) -> None:
        self.data, self.nodes, self.tensors, self.count = data, [], [], 0
        self.rng = np.random.default_rng(0)

    def node(self, op_type: str, *inputs: str, name: str = "", **attributes: object) -> str:
        self.count += 1
        output = name or f"{op_type.lower()}_{self.count}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def constant(self, array: np.ndarray, name: str = "") -> str:
        self.count += 1
        self.tensors.append(numpy_helper.from_array(array, name or f"constant_{self.count}"))
        return self.tensors[-1].name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str, rows: int, columns: int, density: float) -> str:
        """A float16 matrix in the external file, as float32."""
        array = self.rng.standard_normal((rows, columns), np.float32)
        array *= 1 / math.sqrt(rows * density)
        if density < 1:
            array *= self.rng.random((rows, columns), np.float32) < density
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=array.shape,
                             data_location=TensorProto.EXTERNAL)
        stored = array.astype(np.float16)
        for key, value in {"location": Path(self.data.name).name, "offset": self.data.tell(),
                           "length": stored.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(memoryview(stored).cast("B"))
        self.tensors.append(tensor)
        return self.node("Cast", name, name=f"{name}.float", to=TensorProto.FLOAT)

    def linear(self, x: str, name: str, rows: int, columns: int, density: float = DENSITY) -> str:
        return self.node("MatMul", x, self.weight(f"{name}.weight", rows, columns, density), name=name)

    def norm(self, x: str, name: str, width: int) -> str:
        mean = self.node("ReduceMean", self.node("Pow", x, self.constant(np.float32(2))), axes=[-1], keepdims=1)
        root = self.node("Sqrt", self.node("Add", mean, self.constant(np.float32(1e-5))))
        scale = self.constant(self.rng.random(width, np.float32) + np.float32(0.5), f"{name}.weight")
        return self.node("Mul", self.node("Div", x, root), scale)

    def heads(self, x: str, count: int, depth: int) -> str:
        split = self.node("Reshape", x, self.ints(0, 0, count, depth))
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def rotated(self, x: str, angles: tuple[str, str], depth: int) -> str:
        first, second = (self.node("Slice", x, self.ints(begin), self.ints(end), self.ints(3))
                         for begin, end in ((0, depth // 2), (depth // 2, depth)))
        turned = self.node("Concat", self.node("Neg", second), first, axis=-1)
        return self.node("Add", self.node("Mul", x, angles[0]), self.node("Mul", turned, angles[1]))

    def repeated(self, x: str, size: Size) -> str:
        wide = self.node("Expand", self.node("Unsqueeze", x, self.ints(2)),
                         self.ints(1, 1, size.heads // size.groups, 1, 1))
        return self.node("Reshape", wide, self.ints(0, size.heads, -1, size.depth))


def places(w: Writer, depth: int) -> tuple[tuple[str, str], str]:
    """The cosines and sines of every new token's angles, and the mask of scores."""
    tokens, before = (w.node("Gather", w.node("Shape", value), w.constant(np.array(axis, np.int64)), axis=0)
                      for value, axis in (("input_ids", 1), ("past_key_values.0.key", 2)))
    zero, one = (w.constant(np.array(value, np.int64)) for value in (0, 1))
    total = w.node("Add", before, tokens)
    new, every = w.node("Range", before, total, one), w.node("Range", zero, total, one)
    frequencies = (1 / 10000 ** (np.arange(0, depth, 2) / depth)).astype(np.float32)
    column = w.node("Unsqueeze", w.node("Cast", new, to=TensorProto.FLOAT), w.ints(1))
    half = w.node("Mul", column, w.constant(frequencies[None]))
    angles = w.node("Concat", half, half, axis=-1)
    seen = w.node("LessOrEqual", w.node("Unsqueeze", every, w.ints(0)), w.node("Unsqueeze", new, w.ints(1)))
    mask = w.node("Where", seen, w.constant(np.float32(0)), w.constant(np.float32(-1e9)))
    return (w.node("Cos", angles), w.node("Sin", angles)), mask


def layer(w: Writer, x: str, index: int, size: Size, angles: tuple[str, str], mask: str) -> str:
    name, width, inner = f"layers.{index}", size.width, size.inner
    narrow = size.groups * size.depth
    y = w.norm(x, f"{name}.norm1", width)
    q = w.rotated(w.heads(w.linear(y, f"{name}.q", width, width), size.heads, size.depth), angles, size.depth)
    k = w.rotated(w.heads(w.linear(y, f"{name}.k", width, narrow), size.groups, size.depth), angles, size.depth)
    v = w.heads(w.linear(y, f"{name}.v", width, narrow), size.groups, size.depth)
    keys, values = (w.node("Concat", f"past_key_values.{index}.{kind}", new, axis=2, name=f"present.{index}.{kind}")
                    for kind, new in (("key", k), ("value", v)))
    scores = w.node("MatMul", q, w.node("Transpose", w.repeated(keys, size), perm=[0, 1, 3, 2]))
    scaled = w.node("Div", scores, w.constant(np.float32(math.sqrt(size.depth))))
    shares = w.node("Softmax", w.node("Add", scaled, mask), axis=-1)
    mixed = w.node("Transpose", w.node("MatMul", shares, w.repeated(values, size)), perm=[0, 2, 1, 3])
    x = w.node("Add", x, w.linear(w.node("Reshape", mixed, w.ints(0, 0, width)), f"{name}.o", width, width))
    y = w.norm(x, f"{name}.norm2", width)
    gate, up = (w.linear(y, f"{name}.{kind}", width, inner) for kind in ("gate", "up"))
    hidden = w.node("Mul", w.node("Mul", gate, w.node("Sigmoid", gate)), up)
    return w.node("Add", x, w.linear(hidden, f"{name}.down", inner, width))


def make(name: str, out_dir: Path) -> Path:
    size, path = SIZES[name], out_dir / f"decoder-{name}.onnx"
    with path.with_name(f"{path.name}.data").open("wb") as data:
        w = Writer(data)
        angles, mask = places(w, size.depth)
        x = w.node("Gather", w.weight("embedding.weight", VOCABULARY, size.width, 1.0), "input_ids", axis=0)
        for index in range(size.layers):
            x = layer(w, x, index, size, angles, mask)
            print(f"\r{path.name}: layer {index + 1} of {size.layers}", end="", file=sys.stderr, flush=True)
        y = w.linear(w.norm(x, "norm", size.width), "head", size.width, VOCABULARY, 1.0)
        w.nodes.append(helper.make_node("Identity", [y], ["logits"]))

    def tensor(label: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(label, kind, shape)

    def caches(label: str, length: str) -> list[onnx.ValueInfoProto]:
        return [tensor(f"{label}.{index}.{kind}", TensorProto.FLOAT, "batch", size.groups, length, size.depth)
                for index in range(size.layers) for kind in ("key", "value")]

    graph = helper.make_graph(
        w.nodes, "decoder", [tensor("input_ids", TensorProto.INT64, "batch", "sequence"),
                             *caches("past_key_values", "past")],
        [tensor("logits", TensorProto.FLOAT, "batch", "sequence", VOCABULARY), *caches("present", "total")], w.tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    print(f"\n{path}", file=sys.stderr)
    return path


def main() -> None:
    out_dir = Path(sys.argv[1])
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or ["0.3b"]:
        make(name, out_dir)


if __name__ == "__main__":
    main()
