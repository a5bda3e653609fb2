"""mkdocs' hooks: the README, CONTRIBUTING and the changelog are pages of the site, with their links led there."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FILES = ("examples/first_hour.sh",)
"""What pages link to beside other pages."""


def on_files(files: Any, config: Any) -> Any:
    """The files of `docs/`, those of `PAGES`, and `FILES`."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    for name in FILES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 - mkdocs passes them
    """Links as they are from the site's root: in the repository they lead out of `docs/`, or into it."""
    led = markdown.replace("](docs/", "](").replace("](../examples/", "](examples/")
    for name, target in PAGES.items():
        led = led.replace(f"](../{name}", f"]({target}").replace(f"]({name}", f"]({target}")
    return led
