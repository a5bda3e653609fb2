"""Operators of which a device has the result without computing it: its memory in another shape or order."""

VIEWS = ("Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""By ONNX's name; a Gather is such where its index is a single number, a Slice where its steps are positive."""
