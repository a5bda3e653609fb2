"""What a model's file says of itself, before anything is converted, folded or mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `describe` imports what it needs, so that commands start fast
    import onnx_ir as ir
    from google.protobuf.message import Message


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file.

    Attributes:
        nbytes: of the file and of the external files that its weights lie in.
        is_divided: whether some of its weights lie in external files.
        opset: of ONNX's own operators, as the file has it; None where it names none.
        outputs: the names of their symbolic dimensions, by output and axis.
        values: those between the inputs and the outputs that the file gives the shapes of.

    """

    nbytes: int
    is_divided: bool
    opset: int | None
    outputs: Mapping[str, Mapping[int, str]]
    values: frozenset[str]

    def name_sizes(self, model: ir.Model) -> None:
        """Give the symbolic sizes of outputs their names in the file, in place, or none where it has none."""
        import onnx_ir as ir

        for value in model.graph.outputs:
            names = self.outputs.get(value.name or "", {})
            if value.shape is not None:
                value.shape = ir.Shape([dim if isinstance(dim, int) else names.get(axis)
                                        for axis, dim in enumerate(value.shape)])


def describe(path: Path) -> ModelFile:
    """What a file that `graph.reader.load` has read holds."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    locations = set(locations_in(model))
    files = [path, *(path.parent / location for location in locations)]
    opsets = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    outputs = {value.name: {axis: dim.dim_param for axis, dim in enumerate(value.type.tensor_type.shape.dim)
                            if dim.dim_param} for value in model.graph.output}
    return ModelFile(sum(each.stat().st_size for each in files if each.is_file()), bool(locations),
                     next(iter(opsets), None), outputs, frozenset(value.name for value in model.graph.value_info))


def locations_in(message: Message) -> Iterator[str]:
    """The external files of all tensors in a message of ONNX's, as it names them; some repeatedly."""
    from sparsec.graph.proto import external_tensors

    for tensor in external_tensors(message):
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def rewrite_sparse(path: Path) -> None:
    """Replace a file by one whose weights are sparse tensors where that is smaller."""
    import onnx

    from sparsec.graph.writer import save_proto

    save_proto(onnx.load(path), path, sparse=True)
