"""What documents and docstrings name is there: paths, modules, registries; and the pages say what the code does."""

import ast
import fnmatch
import re
from functools import cache
from pathlib import Path

import pytest

import sparsec
from sparsec.compiler.pipeline import PASSES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted((ROOT / "sparsec").rglob("*.py"))
FOLDERS = ("sparsec", "tests", "bench", "distributions", "docs", "examples", "make", ".ci")
FOREIGN = {"cpu.max", "wgmma.sp", "wgmma.mma_async", "weights.bin", "manifest.json", "T.address_of",
           "sparsec.sparse_initializer"}
"""Names that begin like ours: a file of control groups, instructions of GPUs, members of artifacts, TVM's, a key."""
WIDTH = 100


@cache
def repository():
    """All files and folders, relative to the root."""
    found = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*")
             if "__pycache__" not in path.parts]
    return [*found, *(path.relative_to(ROOT) for path in ROOT.glob("*"))]


@cache
def names(path):
    """(the names that a module defines, those that its classes and functions' bodies define)."""
    tree = ast.parse(path.read_text())
    inner = {name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in defined(node.body)}
    return set(defined(tree.body)), inner


def defined(body):
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


@cache
def modules_of(dotted):
    """The modules and packages whose dotted name ends so."""
    return [path for path in MODULES if f".{dotted_name(path)}".endswith(f".{dotted}")]


def dotted_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_path(text):
    return ("/" in text and text.split("/")[0] in FOLDERS) or re.fullmatch(r"[\w./-]+\.(py|md|c|sh)|[\w/]+/", text)


def exists(text):
    """Whether some file or folder of the repository ends with a path, in which NAME stands for any name."""
    pattern = text.rstrip("/").replace("NAME", "*")
    return any(fnmatch.fnmatch(str(each), pattern) or fnmatch.fnmatch(str(each), f"*/{pattern}")
               for each in repository())


def resolves(dotted):
    """Whether a dotted name is a module, something in it, or a member of a class; True for what is not sparsec's."""
    parts = dotted.split(".")
    if parts[0] == "sparsec" and len(parts) == 2:
        return parts[1] in sparsec.__all__ or bool(modules_of(dotted))
    if not modules_of(parts[0]):
        owners = [path for path in MODULES if parts[0] in names(path)[0] and parts[0][0].isupper()]
        return not owners or any(parts[1] in names(path)[1] for path in owners)
    for count in range(len(parts), 0, -1):
        rest = parts[count:]
        for path in modules_of(".".join(parts[:count])):
            top, inner = names(path)
            if not rest or rest[0] in (top | inner if len(rest) == 1 else top):
                return True
    return False


def documents():
    for page in PAGES:
        yield str(page.relative_to(ROOT)), re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for path in MODULES:
        values = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Expr))
        yield str(path.relative_to(ROOT)), "\n".join(
            each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str))


def wrong(text):
    """The names between backticks that lead nowhere."""
    for name in re.findall(r"`([\w./-]+)`", text):
        dotted = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name)
        if (is_path(name) and not exists(name)) or (dotted and not is_path(name) and name not in FOREIGN
                                                    and not resolves(name)):
            yield name


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in documents()])
def test_what_is_named_is_there(text):
    found = sorted(set(wrong(text)))
    assert not found, "named, but not there"


@pytest.mark.parametrize("name", ["`graph.batch`", "`backends.eie.layer`", "`graph/batch.py`", "`kernels/quads.py`",
                                  "`Option.labour`", "`sparsec/passes/none/`"])
def test_what_is_not_there_is_found(name):
    assert list(wrong(name))


def test_registries_of_contributing_are_there():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where does X go")[2].partition("## ")[0]
    groups = re.findall(r"((?:`\w+`(?:, | or | and )?)+) in `([\w/]+\.py)`", table)
    entries = [(name, path) for group, path in groups for name in re.findall(r"\w+(?=`)", group)]
    assert len(entries) > 40
    assert not [(name, path) for name, path in entries
                if not any(name in names(each)[0] for each in ROOT.glob(path.replace("NAME", "*")))]
    located = {name for name, _ in entries}
    loose = set(re.findall(r"`(_?[A-Z][A-Z_]+)`", table)) - located - {"FAMILY", "SCHEMA"}
    assert not loose, "of these the table does not say where they are"


def test_architecture_lists_the_passes():
    listed = re.findall(r"^\| `passes/(\w+)`", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert listed == [each.run.__module__.split(".")[2] for each in PASSES]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "operators.md"], ids=lambda page: page.name)
def test_prose_is_wrapped(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).splitlines()
    assert not [line for line in prose if len(line) > WIDTH and not line.startswith("|") and " " in line[2:].strip()]
