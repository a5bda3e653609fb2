"""Static shapes: reading them, and binding the symbolic dimensions of a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from sparsec.errors import ShapeError

Declared = dict[ir.Value, ir.Shape]
BROADCAST = ("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
             "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor")
"""Operators on elements of inputs whose shapes broadcast to each other."""
SIZED_BY_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
"""Operators whose output is as large as values say, whatever the sizes of the inputs."""


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The value's shape where every dimension is a known number, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def bind(model: ir.Model, shapes: Mapping[str, Sequence[int]], where: str, *, symbolic: bool = False,
         dims: Mapping[str, int] | None = None) -> Declared:
    """Gives every graph input a static shape, in place; with `symbolic`, what is not given stays unbound.

    Shapes are given by input, and sizes of symbols by `dims`.

    A symbol bound at one input holds at all of them. The other shapes in the model are taken away, to be inferred.

    Returns:
        what was taken away, with the bound symbols filled in, for `infer`.

    Raises:
        ShapeError: an unknown input, a wrong rank, a contradiction, or dimensions left unbound (all are listed).

    """
    inputs = {value.name: value for value in model.graph.inputs}
    symbols = dict(dims or {})
    for name, shape in shapes.items():
        if name not in inputs:
            raise ShapeError(f"{where}: no input '{name}' to bind; the inputs are {', '.join(map(str, inputs))}")
        _bind_input(inputs[name], tuple(shape), symbols, where)
    for value in inputs.values():
        if value.shape is not None:
            value.shape = ir.Shape([_bound(dim, symbols) for dim in value.shape])
        if any(isinstance(dim, int) and dim < 0 for dim in value.shape or ()):
            raise ShapeError(f"{where}: input '{value.name}' is declared {_declared(value)}; no dimension is negative")
    unbound = [value for value in inputs.values() if static_shape(value) is None]
    if unbound and not symbolic:
        raise ShapeError(f"{where}: unbound dimensions: {'; '.join(map(_suggestion, unbound))}")
    return _take_declared(model.graph, symbols)


def _bound(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | ir.SymbolicDim:
    """The size of a dimension where its symbol, or every term of a sum such as "past + tokens", has one."""
    name = _symbol(dim)
    if name in symbols:
        return symbols[name]
    terms = [term.strip() for term in name.split("+")]
    sizes = [int(term) if term.isdecimal() else symbols.get(term) for term in terms]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(terms) > 1 and len(known) == len(terms) else dim


def _symbol(dim: int | ir.SymbolicDim) -> str:
    return "" if isinstance(dim, int) else dim.value or ""


def _bind_input(value: ir.Value, shape: tuple[int, ...], symbols: dict[str, int], where: str) -> None:
    if any(dim < 0 for dim in shape):
        raise ShapeError(f"{where}: input '{value.name}' cannot have the shape {shape}; dimensions are not negative")
    if value.shape is None:
        value.shape = ir.Shape(shape)
        return
    if len(shape) != len(value.shape):
        raise ShapeError(f"{where}: input '{value.name}' has rank {len(value.shape)}, "
                         f"the shape {shape} has rank {len(shape)}; it is declared {_declared(value)}")
    for index, (old, new) in enumerate(zip(value.shape, shape, strict=True)):
        symbol = _symbol(old)
        fixed = old if isinstance(old, int) else symbols.get(symbol)
        if fixed is not None and fixed != new:
            raise ShapeError(f"{where}: dimension {index} of input '{value.name}' is {fixed}, not {new}; "
                             f"it is declared {_declared(value)}")
        if symbol:
            symbols[symbol] = new
    value.shape = ir.Shape(shape)


def _declared(value: ir.Value) -> str:
    dims = [str(dim) if isinstance(dim, int) else _symbol(dim) or f"dim{i}" for i, dim in enumerate(value.shape or ())]
    return f"({', '.join(dims)})"


def _suggestion(value: ir.Value) -> str:
    """The input, its unbound dimensions and the options that bind them."""
    if value.shape is None:
        return f"input '{value.name}' has no shape at all, pass it, such as shapes={{{value.name!r}: (1, 3, 224, 224)}}"
    free = [(i, _symbol(dim)) for i, dim in enumerate(value.shape) if not isinstance(dim, int)]
    names = ", ".join(f"{i} ({symbol})" if symbol else str(i) for i, symbol in free)
    shapes = {value.name: tuple(dim if isinstance(dim, int) else 1 for dim in value.shape)}
    dims = {symbol: 1 for _, symbol in free}
    by_name = f"dims={dims} or " if all(symbol.isidentifier() for symbol in dims) else ""
    return f"input '{value.name}' dimension {names}, pass {by_name}shapes={shapes}, or other sizes"


def _take_declared(graph: ir.Graph, symbols: Mapping[str, int]) -> Declared:
    """Takes away what the file says of the shapes that standard operators produce: it may be out of date."""
    declared = {}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                known = ir.Shape([dim if isinstance(dim, int) else symbols.get(_symbol(dim)) for dim in value.shape])
                declared[value] = known
                value.shape = None if node.domain == "" else known
    return declared
