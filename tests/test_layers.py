"""Imports point one way: each layer of sparsec imports only the layers before it (see CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "sparsec"
BASE = {"errors", "target"}
LAYERS = {
    "errors": set(),
    "target": {"errors"},
    "graph": BASE,
    "formats": BASE,
    "analysis": BASE | {"formats", "graph"},
    "cost": BASE | {"formats", "graph"},
    "passes": BASE | {"analysis", "cost", "formats", "graph"},
    "machine": BASE,
    "kernels": BASE | {"cost", "formats", "graph", "machine"},
    "backends": BASE | {"cost", "formats", "graph", "kernels", "machine"},
    "models": BASE | {"analysis", "formats", "graph"},
}
LAST = ["artifact", "runtime", "compiler", "report", "bench", "cli", "__main__"]
for position, name in enumerate(LAST):
    LAYERS[name] = set(LAYERS) - {"models"} | set(LAST[:position])
LAYERS["cli"] |= {"models"}


def imported_layers(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.module != "sparsec" else [f"sparsec.{a.name}" for a in node.names]
            assert node.level == 0, f"{path}: relative import"
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("sparsec."))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if layer == "__init__":
        return
    wrong = set(imported_layers(path)) - LAYERS[layer] - {layer}
    assert not wrong, f"{layer} may not import {sorted(wrong)}"


def test_only_models_imports_torch():
    users = {p.relative_to(ROOT).parts[0] for p in ROOT.rglob("*.py") if "import torch" in p.read_text()}
    assert users <= {"models"}
