"""`sparsec formats`: how weights can be stored."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sparsec.cli import options, tables

if TYPE_CHECKING:
    from sparsec.formats import Format

SHAPE = (1024, 1024)
SPARSITIES = (0.5, 0.8, 0.9, 0.95)


def command(json: options.JsonFile = None) -> None:
    """List the storage formats and value codecs.

    With what they cost and what they refuse.
    """
    from sparsec.formats import CODECS, FORMATS

    forms: list[dict[str, Any]] = [{"format": name, "condition": _condition(form), "bits_per_weight": {
        str(sparsity): _bits(form, sparsity) for sparsity in SPARSITIES}} for name, form in FORMATS.items()]
    codecs: list[dict[str, Any]] = [{"codec": name, "condition": _condition(codec), "bits": codec.bits,
                                     "lossless": codec.lossless} for name, codec in CODECS.items()]
    tables.console.print(f"bits per weight: {tables.shape(SHAPE)} float32, zeros at random places")
    tables.print_table(("format", *(f"{100 * sparsity:.0f} %" for sparsity in SPARSITIES)), [
        (each["format"], *(f"{bits:.1f}" for bits in each["bits_per_weight"].values())) for each in forms])
    tables.console.print()
    tables.print_table(("codec", "bits", "exact"), [
        (each["codec"], each["bits"], "yes" if each["lossless"] else "no") for each in codecs])
    tables.console.print()
    rows = (*forms, *codecs)
    for condition in dict.fromkeys(each["condition"] for each in rows if each["condition"]):
        names = ((each.get("format") or each["codec"]).split()[0] for each in rows if each["condition"] == condition)
        tables.console.print(f"{', '.join(dict.fromkeys(names))}: {condition}")
    options.write_json(json, {"formats": forms, "codecs": codecs})


def _bits(form: Format, sparsity: float) -> float:
    """Bits per weight, as expected of random places."""
    n = SHAPE[0] * SHAPE[1]
    return form.analytic_bits(form.entries(round((1 - sparsity) * n), SHAPE), SHAPE, 32) / n


def _condition(kind: object) -> str | None:
    """What `reject` asks, as its documentation says; None where it asks nothing."""
    from sparsec.formats import Format

    reject = type(kind).reject  # type: ignore[attr-defined]  # formats and codecs have it
    return None if reject is Format.reject else inspect.getdoc(reject)
