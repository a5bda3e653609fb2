"""The wheel of sparsec-runtime: the modules that running needs, and TVM's runtime libraries."""

import ast
import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

SOURCES = Path(__file__).resolve().parents[2] / "sparsec"
WHOLE = ("artifact", "generation", "machine", "runtime")
"""Layers that the wheel holds whole, with all that they import anywhere; of other modules, what they import at once."""
FURTHER = ("__init__.py", "__main__.py")
"""Modules beside them."""
COMPILES = "machine/tvm_compiler.py"
"""Of these layers, what is the compiler's."""
LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so", "libtvm_runtime_cuda.so")
FOLDER = "machine/libraries"
"""Where `sparsec.machine.tvm_runtime` looks for them first."""


def imported(path: Path, *, anywhere: bool) -> Iterator[Path]:
    """The modules of sparsec that a module imports when it is imported, or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if anywhere else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsec"):
            package = SOURCES.joinpath(*(node.module or "").split(".")[1:])
            for found in (package, *(package / name.name for name in node.names)):
                yield from (each for each in (found.with_suffix(".py"), found / "__init__.py") if each.is_file())


def modules() -> set[Path]:
    """What the wheel holds of sparsec, relative to its folder."""
    whole = {path for layer in WHOLE for path in (SOURCES / layer).rglob("*.py")} - {SOURCES / COMPILES}
    waiting, found = [*whole, *(SOURCES / name for name in FURTHER)], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        folders = [folder / "__init__.py" for folder in path.parents if SOURCES in (folder, *folder.parents)]
        waiting += [each for each in folders if each.is_file()]
        waiting += imported(path, anywhere=path in whole)
    return {path.relative_to(SOURCES) for path in found}


class BuildModules(build_py):
    """Copies the modules and the libraries."""

    def run(self) -> None:
        """Into the folder that becomes the wheel."""
        target = Path(self.build_lib) / "sparsec"
        for path in modules():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCES / path, target / path)
        shutil.copy(SOURCES / "py.typed", target)
        copy_libraries(target / FOLDER)


def copy_libraries(folder: Path) -> None:
    """TVM's runtime libraries from its installed package, with its licence and version."""
    folder.mkdir(parents=True, exist_ok=True)
    distribution = importlib.metadata.distribution("apache-tvm")
    for name in (*(f"tvm/lib/{library}" for library in LIBRARIES), "tvm/LICENSE", "tvm/NOTICE"):
        shutil.copy(str(distribution.locate_file(name)), folder)
    (folder / "VERSION").write_text(distribution.version)


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 on the platform of TVM's libraries."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, its binary interface, and the platform that TVM's own wheel names."""
        tags = importlib.metadata.distribution("apache-tvm").read_text("WHEEL") or ""
        platform = next(line.rpartition("-")[2] for line in tags.splitlines()[::-1] if line.startswith("Tag: "))
        return "py3", "none", platform


class WithLibraries(Distribution):
    """A distribution with machine code in it."""

    def has_ext_modules(self) -> bool:
        """The libraries are compiled."""
        return True


setup(distclass=WithLibraries, packages=["sparsec"], package_dir={"sparsec": "../../sparsec"},
      cmdclass={"build_py": BuildModules, "bdist_wheel": PlatformWheel})
