"""The file of figures that a run on a GPU writes as it goes, so that what it has measured survives whatever ends it.

"cases" has for every case its "engines": each one's "us", its "error" and more, or why it "failed". "begun" names the
case and the engine that are under way: when a process dies, they are to blame. Device, versions and date lie beside.
"""

import json
import time

WITHIN = {"product": 5e-3, "model": 2e-2, "decoder": 2e-2, "fp8": 2e-2}
"""What outputs may err by, relative to the largest: products in float16 and of bytes, models as `sparsec compile` has
it, and products of e4m3, whose sums Hopper's tensor cores keep in fewer bits."""


def within(case):
    """What a case's outputs may err by."""
    return WITHIN.get(case.get("precision"), WITHIN[case["kind"]])


class Results:
    """The figures, written whole after every change."""

    def __init__(self, path):
        self.path = path
        self.figures = json.loads(path.read_text()) if path.exists() else {"begun": None, "cases": {}}

    def save(self):
        """Replace the file at once."""
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.write_text(json.dumps(self.figures, indent=1) + "\n")
        temporary.replace(self.path)

    def engines(self, case):
        """What is known of a case's engines, by name."""
        return self.figures["cases"].setdefault(case, {"engines": {}})["engines"]

    def done(self, case):
        """Whether nothing is left to do for a case."""
        found = self.figures["cases"].get(case, {})
        return "finished" in found or "failed" in found

    def begin(self, case, engine=None):
        """Say what is under way: an engine, or all of a case's in turns."""
        self.figures["begun"] = [case, engine]
        self.save()

    def finish(self, case):
        """A case is complete."""
        self.figures["cases"][case]["finished"] = time.strftime("%Y-%m-%d %H:%M:%S")
        self.figures["begun"] = None
        self.save()

    def forget(self):
        """What was under way when a run was interrupted is not to blame."""
        self.figures["begun"] = None
        self.save()

    def blame(self, reason):
        """Give up what was under way; False where nothing was."""
        if self.figures["begun"] is None:
            return False
        case, engine = self.figures["begun"]
        self.engines(case)
        failed = self.figures["cases"][case] if engine is None else self.engines(case).setdefault(engine, {})
        failed.setdefault("failed", reason)
        self.figures["begun"] = None
        self.save()
        return True
