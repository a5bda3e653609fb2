"""A value of run-time sizes as a rearrangement of another, however exporters have written it.

Reshapes, transposes and the choice of one index split the dimensions of a source into atoms, put these into another
order, and join them: what a chain of such nodes does is one `View`, which `written` turns into as few nodes as it
takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size, product
from sparsec.graph.constants import add_constant, constant

ONE = Size.of(1)
Groups = tuple[tuple[int, ...], ...]
"""By dimension the atoms that it is made of, the outermost first; none of a dimension of size 1."""


@dataclass(frozen=True)
class View:
    """A value as a rearrangement of a source.

    Attributes:
        source: the value that is rearranged.
        atoms: the dimensions that the source is split into, in its order, each with its name.
        sizes: by name the size of an atom.
        chosen: by name the index of those that are not kept whole.
        groups: the value's dimensions.

    """

    source: ir.Value
    atoms: tuple[int, ...]
    sizes: dict[int, Size]
    chosen: dict[int, int]
    groups: Groups

    def shape(self) -> Shape:
        """The shape of the value."""
        return tuple(product(self.sizes[atom] for atom in group) for group in self.groups)


def whole(value: ir.Value, symbols: Symbols) -> View | None:
    """A value as it is; None where it has sizes that nothing is known of, or no elements."""
    shape = symbols.shape(value)
    if shape is None or not all(size.known and size.number != 0 for size in shape):
        return None
    atoms = tuple(axis for axis, size in enumerate(shape) if size != ONE)
    return View(value, atoms, {axis: shape[axis] for axis in atoms}, {},
                tuple((axis,) if size != ONE else () for axis, size in enumerate(shape)))


def view_of(value: ir.Value, symbols: Symbols) -> tuple[View, list[ir.Node]] | None:
    """A value as a view of the furthest source, with the nodes that write it so far."""
    chain: list[ir.Node] = []
    source = value
    while (node := source.producer()) is not None and not node.domain and node.op_type in MOVES and (
            len(node.outputs) == 1 and node.inputs and node.inputs[0] is not None):
        if whole(node.inputs[0], symbols) is None or not _is_movement(node):
            break
        chain.append(node)
        source = node.inputs[0]
    while chain:
        view = whole(source, symbols)
        for node in reversed(chain):
            view = None if view is None else MOVES[node.op_type](node, view, symbols)
        if view is not None:
            return view, chain
        source = chain.pop().outputs[0]
    return None


def _is_movement(node: ir.Node) -> bool:
    """Whether a node moves elements: not where indices are looked up."""
    index = constant(node.inputs[1]) if node.op_type == "Gather" else None
    return node.op_type != "Gather" or (index is not None and index.size == 1 and index.ndim <= 1)


def regrouped(view: View, shape: Sequence[Size]) -> View | None:
    """The view in another shape, None where that splits atoms in no way that all sizes allow."""
    sizes, atoms = dict(view.sizes), list(view.atoms)
    left = [atom for group in view.groups for atom in group][::-1]
    groups = []
    for size in shape:
        group, need = list[int](), size
        while need != ONE:
            if not left:
                return None
            atom = left.pop()
            own = sizes[atom]
            if (rest := need.divided(own)) is not None:
                group.append(atom)
                need = rest
            elif (inner := own.divided(need)) is not None:
                outer, last = 1 + max(sizes), 2 + max(sizes)
                sizes |= {outer: need, last: inner}
                place = atoms.index(atom)
                atoms[place:place + 1] = [outer, last]
                del sizes[atom]
                group.append(outer)
                left.append(last)
                break
            else:
                return None
        groups.append(tuple(group))
    return None if left else replace(view, atoms=tuple(atoms), sizes=sizes, groups=tuple(groups))


def _reshape(node: ir.Node, view: View, symbols: Symbols) -> View | None:
    shape = symbols.shape(node.outputs[0])
    return None if shape is None or not all(size.known for size in shape) else regrouped(view, shape)


def _transpose(node: ir.Node, view: View, _: Symbols) -> View | None:
    rank = len(view.groups)
    order = node.attributes.get_ints("perm", []) or list(reversed(range(rank)))
    return replace(view, groups=tuple(view.groups[axis] for axis in order)) if len(order) == rank else None


def _gather(node: ir.Node, view: View, _: Symbols) -> View | None:
    """One index of an axis, which goes with it, or stays with size 1."""
    axis, index = node.attributes.get_int("axis", 0) % len(view.groups), constant(node.inputs[1])
    group = view.groups[axis]
    if index is None or len(group) != 1 or not (size := view.sizes[group[0]].number):
        return None
    at = int(index.item()) + (size if index.item() < 0 else 0)
    if not 0 <= at < size:
        return None
    kept = ((),) if index.ndim else ()
    return replace(view, chosen={**view.chosen, group[0]: at},
                   groups=(*view.groups[:axis], *kept, *view.groups[axis + 1:]))


MOVES: dict[str, Callable[[ir.Node, View, Symbols], View | None]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), _reshape), "Transpose": _transpose,
    "Gather": _gather}
"""By operator, the view of its output from that of its first input."""


@dataclass(frozen=True)
class _Step:
    """A node to be: its operator, its second input or its order, and the shape of its output."""

    op_type: str
    argument: tuple[int, ...]
    shape: Shape


def steps(view: View, symbols: Symbols) -> list[_Step] | None:
    """The nodes that write a view, none where it is its source; None where a shape cannot be said in numbers."""
    parts, found = _parts(view), list[_Step]()
    shape, target = symbols.shapes[view.source], view.shape()
    order = [part for group in _grouped(view, parts) for part in group]
    kept = [part for part in parts if part[0] not in view.chosen]
    turned = order != kept
    single = turned and all(len(group) <= 1 for group in _grouped(view, parts))
    ones = sum(not group for group in view.groups) if single else 0
    middle = [*(product(view.sizes[atom] for atom in part) for part in parts), *[ONE] * ones]
    if (turned or view.chosen) and not _add_reshape(found, shape, middle):
        return None
    shape = found[-1].shape if found else shape
    for axis, part in reversed(list(enumerate(parts))):
        if part[0] in view.chosen:
            shape = (*shape[:axis], *shape[axis + 1:])
            found.append(_Step("Gather", (axis, view.chosen[part[0]]), shape))
    if turned:
        spare = iter(range(len(kept), len(kept) + ones))
        places = [kept.index(group[0]) if group else next(spare) for group in _grouped(view, parts)] if single else [
            kept.index(part) for part in order]
        shape = tuple(shape[axis] for axis in places)
        found.append(_Step("Transpose", tuple(places), shape))
    return found if _add_reshape(found, shape, target) else None


def _add_reshape(found: list[_Step], shape: Shape, target: Iterable[Size]) -> bool:
    """Add a Reshape unless the shape is the target already; False where it takes more than one size to be told."""
    wanted = tuple(target)
    if shape == wanted:
        return True
    numbers = [0 if axis < len(shape) and size == shape[axis] and size.number is None else size.number
               for axis, size in enumerate(wanted)]
    if numbers.count(None) > 1:
        return False
    found.append(_Step("Reshape", tuple(-1 if number is None else number for number in numbers), wanted))
    return True


def _parts(view: View) -> list[tuple[int, ...]]:
    """The atoms of the source, those joined that stay neighbours in one dimension."""
    after = {first: second for group in view.groups for first, second in itertools.pairwise(group)}
    parts: list[tuple[int, ...]] = []
    for atom in view.atoms:
        if parts and after.get(parts[-1][-1]) == atom:
            parts[-1] = (*parts[-1], atom)
        else:
            parts.append((atom,))
    return parts


def _grouped(view: View, parts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """The value's dimensions in parts."""
    first = {part[0]: part for part in parts}
    return [[first[atom] for atom in group if atom in first] for group in view.groups]


def written(view: View, symbols: Symbols, graph: ir.Graph, before: ir.Node, name: str) -> ir.Value | None:
    """The value of a view, by nodes in front of another; None as `steps`."""
    found, value = steps(view, symbols), view.source
    for number, step in enumerate(found or ()):
        named = f"{name}.{number}"
        if step.op_type == "Transpose":
            node = ir.node("Transpose", [value], {"perm": list(step.argument)}, name=named)
        elif step.op_type == "Gather":
            index = add_constant(graph, f"{named}.index", np.array(step.argument[1], np.int64))
            node = ir.node("Gather", [value, index], {"axis": step.argument[0]}, name=named)
        else:
            target = add_constant(graph, f"{named}.shape", np.array(step.argument, np.int64))
            node = ir.node("Reshape", [value, target], name=named)
        out = node.outputs[0]
        out.name, out.type = named, value.type
        symbols.shapes[out] = step.shape
        graph.insert_before(before, node)
        value = out
    return None if found is None else value
