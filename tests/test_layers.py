"""Imports point one way: each layer of sparsec imports only the layers before it (see CONTRIBUTING.md)."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent / "sparsec"
BASE = {"errors", "files", "target"}
LAYERS = {
    "errors": set(),
    "files": {"errors"},
    "target": {"errors"},
    "graph": BASE,
    "formats": BASE,
    "analysis": BASE | {"formats", "graph"},
    "machine": BASE,
    "cost": BASE | {"formats", "graph", "machine"},
    "passes": BASE | {"analysis", "cost", "formats", "graph"},
    "kernels": BASE | {"cost", "formats", "graph", "machine"},
    "backends": BASE | {"cost", "formats", "graph", "kernels", "machine"},
    "models": BASE | {"analysis", "formats", "graph"},
}
LAST = ["artifact", "runtime", "native", "generation", "compiler", "integrations", "serving", "report", "bench",
        "oneshot", "cli", "__main__"]
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


def test_contributing_lists_the_layers_in_order():
    table = (TESTS.parent / "CONTRIBUTING.md").read_text().partition("## Layers")[2].partition("## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(set(LAYERS) - {"__main__"})
    for position, layer in enumerate(listed):
        assert LAYERS[layer] <= {*listed[:position], "models"}, layer


def test_only_models_and_integrations_import_torch():
    users = {p.relative_to(ROOT).parts[0] for p in ROOT.rglob("*.py") if "import torch" in p.read_text()}
    assert users <= {"models", "integrations"}


SIBLINGS = {  # of the folder, those that may not know each other at all
    "backends": {"accelerators", "cpu", "cuda"},
    "kernels": {"cpu", "cuda"},
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsec"):
            for alias in node.names:
                whole = ROOT.parent.joinpath(*node.module.split("."), alias.name)
                module = whole if whole.is_dir() or whole.with_suffix(".py").exists() else whole.parent
                yield module.relative_to(ROOT).parts


def sibling_imports():
    """(folder, importer, imported) wherever modules below a folder's entry import below another of its entries."""
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).with_suffix("").parts
        for other in imported_modules(path):
            depth = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), None)
            if depth is not None:
                yield ".".join(own[:depth]), own[depth], other[depth]


def test_no_two_siblings_import_each_other():
    edges = set(sibling_imports())
    assert not {edge for edge in edges if (edge[0], edge[2], edge[1]) in edges}


@pytest.mark.parametrize("folder", SIBLINGS)
def test_alternatives_know_nothing_of_each_other(folder):
    assert not {(a, b) for where, a, b in sibling_imports() if where == folder and {a, b} <= SIBLINGS[folder]}


def test_what_backends_share_knows_no_kernels_of_one_of_them():
    shared = sorted((ROOT / "backends" / "relax").rglob("*.py"))
    own = {("kernels", kind) for kind in SIBLINGS["kernels"]}
    assert not [path for path in shared if own & {module[:2] for module in imported_modules(path)}]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_tests_share_only_what_is_support(path):
    own = path.relative_to(TESTS).parts[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
            _, folder, *rest = (*node.module.split("."), node.names[0].name)
            assert folder in ("support", own), f"{node.module} is shared: move it to tests/support"
            assert not any(part.startswith("test_") for part in rest), f"{node.module} is a test"
            found = TESTS.parent.joinpath(*node.module.split("."))
            assert found.is_dir() or found.with_suffix(".py").exists(), f"there is no {node.module}"
