"""`sparsec targets`: what models can be compiled for."""

from __future__ import annotations

from sparsec.cli import tables
from sparsec.target import TARGET_NAMES, Target, lacking, machine_name, resolve


def command() -> None:
    """List the targets and which of them this machine can run."""
    tables.print_table(("target", "vectors", "processor", "runs here"), [_row(name) for name in TARGET_NAMES])
    tables.console.print(f"\ncpu is this machine: {machine_name()}")


def _row(name: str) -> tuple[str, ...]:
    target = resolve(name)
    processor = target.mcpu or ", ".join(target.archs) or "-"
    return name, f"{target.vector_bits} bit" if target.mcpu else "-", processor, _runs(target)


def _runs(target: Target) -> str:
    if target.kind in ("eie", "accelerator"):
        return "simulated"
    if not target.mcpu:
        return "-"
    return "no" if lacking(target) else "yes"
