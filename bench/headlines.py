#!/usr/bin/env python3
"""The table of docs/accelerators.md: the papers' own comparisons, simulated with five random masks each.

    python headlines.py [PAGE] [--seeds 5] [--keep FILE]

puts it in the place of the table of PAGE that begins with the same line, or prints it. Takes some four minutes; what has
come out is kept in FILE, so that a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.headlines import HEADLINES, NEAR
from sparsec.report.accelerators import describe_headline

HEADER = "| comparison | paper | where | here | difference | explanation |"


def simulate(seeds: int, keep: Path | None) -> dict[str, list[float]]:
    """By accelerator and comparison what comes out, a number a seed."""
    done: dict[str, list[float]] = json.loads(keep.read_text()) if keep and keep.exists() else {}
    for seed in range(seeds):
        for each in HEADLINES:
            here = done.setdefault(f"{each.accelerator}: {each.what}", [])
            if len(here) <= seed:
                here.append(each.here(seed))
            if keep:
                keep.write_text(json.dumps(done))
    return done


def table(done: dict[str, list[float]]) -> str:
    """All comparisons in Markdown, and how many designs' own are near."""
    found = [describe_headline(each, done[f"{each.accelerator}: {each.what}"]) for each in HEADLINES]
    rows = [f"| {'**' if each['leads'] else ''}{ACCELERATORS[each['accelerator']].title.split(' [')[0]}"
            f"{'**' if each['leads'] else ''}: {each['what']} | {each['paper']:,g} | {each['source']} | {each['span']} | "
            f"{each['difference']} | {each['why']} |" for each in found]
    leads = [each for each in found if each["leads"]]
    near = sum(all(abs(value / each["paper"] - 1) <= NEAR for value in each["here"]) for each in leads)
    return "\n".join([HEADER, "|---|---|---|---|---|---|", *rows,
                      "", f"Of the {len(leads)} designs' own comparisons, in bold, {near} are within 20 %."])


def main() -> None:
    """Write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    text = table(simulate(given.seeds, given.keep))
    if given.page is None:
        print(text)
        return
    page = given.page.read_text()
    old = re.search(re.escape(HEADER) + r"\n(\|.*\n)+\nOf the .*\n", page)
    if old is None:
        raise SystemExit(f"{given.page} has no table that begins with {HEADER}")
    given.page.write_text(page[: old.start()] + text + "\n" + page[old.end() :])


if __name__ == "__main__":
    main()
