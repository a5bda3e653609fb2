"""Padded flat buffers for kernel tests, and running a kernel between guard pages."""

import ctypes
import mmap

import numpy as np
import tvm

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.images.padded import blank, padded_rows, pixels
from tests.support.targets import compiled

PROT_NONE = 0  # as mprotect has it; the mmap module does not


def padded(shape, pad, lanes, *, clean=True, extra=0):
    """The layout of (batch, channels, height, width) with `extra` floats of row stride beyond the least."""
    n, c, h, w = shape
    return PaddedFlat(n, c, h, w, pad=pad, row_stride=w + pad + extra, lanes=lanes, clean=clean)


def flat(images, layout):
    """The buffer that holds the images; an unclean layout's padding is NaN."""
    buffer = blank(layout)
    pixels(buffer, padded_rows(layout))[...] = images
    return buffer


def images_like(rows_or_layout, seed=0):
    """Random images for a layout or rows."""
    r = rows_or_layout
    shape = (r.batch, r.channels, r.height, r.width)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def guarded(array, *, at_end):
    """A copy with a page that nobody may access right before it or, as closely as alignment allows, right behind it."""
    page = mmap.PAGESIZE
    room = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (base, base + page + room):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(guard), page, PROT_NONE) == 0
    start = page + ((room - array.nbytes) // 64 * 64 if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, start)
    copy[...] = array.ravel()
    return copy


def run_guarded(func, target, *arrays, out):
    """The kernel's result; an access outside of its buffers is a segmentation fault."""
    with tvm.transform.PassContext(config={"tirx.disable_cse_tir": True}):  # LLVM does that, and far faster
        call = compiled(func, target).module["main"]
    results = []
    for at_end in (False, True):
        tensors = [guarded(a, at_end=at_end) for a in (*arrays, np.full(out, np.nan, np.float32))]
        call(*(tvm.runtime.from_dlpack(t) for t in tensors))
        results.append(tensors[-1].copy())
    np.testing.assert_array_equal(*results)
    return results[0]


def assert_same(result, expected, tolerance=0.0):
    """Equal wherever the expectation is not NaN, which stands for anything."""
    defined = ~np.isnan(expected)
    np.testing.assert_allclose(result[defined], expected[defined], rtol=tolerance, atol=tolerance)
