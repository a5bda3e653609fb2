"""What is measured as a straight line over what was predicted, corrected by every measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """measured = slope predicted + rest, and the point that it was last drawn through."""

    slope: float
    rest: float
    predicted: float
    measured: float

    @classmethod
    def through(cls, predicted: float, measured: float) -> Line:
        """One in proportion."""
        return cls(measured / predicted, 0.0, predicted, measured)

    def budget(self, wanted: float, least: float, most: float) -> float:
        """What may be predicted for a measurement, within bounds."""
        return min(max((wanted - self.rest) / self.slope, least), most)

    def then(self, predicted: float, measured: float, near: float) -> Line:
        """The line through the last two points; with the old slope where they are as near as that, or it falls."""
        across, up, slope = predicted - self.predicted, measured - self.measured, self.slope
        if abs(across) > near and across * up > 0:
            slope = up / across
        return Line(slope, measured - slope * predicted, predicted, measured)
