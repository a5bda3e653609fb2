"""Two independent analyses agree: path norms of the PyTorch model, and reachability in its ONNX graph."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from sparsec.analysis.liveness.analysis import active_weights, analyse  # noqa: E402
from sparsec.graph.reader import load  # noqa: E402
from sparsec.models.connectivity import active  # noqa: E402
from sparsec.models.masks import apply_masks, kept, prunable  # noqa: E402
from sparsec.models.networks import NETWORKS  # noqa: E402
from sparsec.models.onnx_export import export  # noqa: E402
from tests.support.small_networks import IMAGES, TEXT  # noqa: E402 - after the skip


@pytest.mark.parametrize(("kind", "sparsity"), [
    (IMAGES, 0.3), (IMAGES, 0.6), (IMAGES, 0.8),
    (TEXT, 0.3), (TEXT, 0.6),  # beyond, keys without queries count in the module only
    (NETWORKS["lenet300-bn"], 0.99), (NETWORKS["lenet5"], 0.97), (NETWORKS["resnet18"], 0.999),
    (NETWORKS["mobilenetv2"], 0.9),
])  # fmt: skip
def test_active_weights_of_the_module_and_of_its_graph(kind, sparsity, tmp_path):
    model = kind.build(0)
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(w.shape, generator=generator) >= sparsity for name, w in prunable(model).items()}
    apply_masks(model, masks)
    export(model, tmp_path / "model.onnx", (kind.example(),))
    graph = load(tmp_path / "model.onnx")
    in_graph = sum(int(mask.sum()) for mask in active_weights(graph, analyse(graph)).values())
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    assert kept(active(model, masks, (kind.example(),))) == in_graph - embeddings
