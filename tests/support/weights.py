"""Strategies of weights: every kind of emptiness and shape that a format must survive."""

import numpy as np
from hypothesis import strategies as st

SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38], np.float32)
SHAPES = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 40)), st.tuples(st.just(1), st.integers(0, 600)),
    st.tuples(st.integers(1, 20).map(lambda n: 8 * n), st.sampled_from([32, 64, 96])),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    st.tuples(st.integers(0, 50)))


@st.composite
def weights(draw, *, special=True):
    """A weight of some density: unstructured, in rows, in columns, in 2:4 groups, strided or behind one huge gap."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(SHAPES)
    weight = rng.standard_normal(shape) * (rng.random(shape) < draw(st.sampled_from([0, 0.01, 0.1, 0.5, 1])))
    flat = weight.reshape(-1)
    match draw(st.sampled_from(["unstructured", "rows", "columns", "2:4", "strided", "gap"])):
        case "rows":
            weight[rng.random(len(weight)) < 0.5] = 0
        case "columns":
            weight[..., rng.random(shape[-1]) < 0.5] = 0
        case "2:4":
            flat[np.arange(flat.size) % 4 > 1] = 0
        case "strided":
            flat[np.arange(flat.size) % draw(st.integers(1, 9)) > 0] = 0
        case "gap":
            flat[1:-1] = 0
    if special and flat.size:
        places = rng.integers(flat.size, size=draw(st.integers(0, 3)))
        flat[places] = rng.choice(SPECIAL, len(places))
    with np.errstate(over="ignore"):
        return weight.astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))
