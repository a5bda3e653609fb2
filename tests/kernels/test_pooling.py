"""Pools equal numpy for every window and layout, take padding for -inf or for nothing, and use no unclean padding."""

import time

import pytest

from sparsec.kernels.cpu.images import pool_padded
from sparsec.kernels.cpu.images.pool_padded import PoolParams
from sparsec.kernels.cpu.images.window import Window
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, compiled, isa

CASES = {  # input shape, kernel, strides, (top, left, bottom, right), output (height, width), larger with ceil_mode
    "3x3/2": ((2, 3, 14, 37), (3, 3), (2, 2), (1, 1, 1, 1), (7, 19)),
    "3x3/2 ceil": ((1, 2, 14, 36), (3, 3), (2, 2), (0, 0, 0, 0), (7, 18)),
    "3x3/1": ((2, 2, 9, 18), (3, 3), (1, 1), (1, 1, 1, 1), (9, 18)),
    "2x2/2": ((1, 3, 32, 64), (2, 2), (2, 2), (0, 0, 0, 0), (16, 32)),
    "2x2/2 of little": ((2, 2, 2, 2), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    "3x2/3x1 uneven": ((1, 2, 20, 21), (3, 2), (3, 1), (1, 0, 0, 1), (7, 21)),
    "4x4/4": ((1, 1, 8, 72), (4, 4), (4, 4), (0, 0, 0, 0), (2, 18)),
    "7x7 of all": ((2, 5, 7, 7), (7, 7), (1, 1), (0, 0, 0, 0), (1, 1)),
    "1x3/2 sequence": ((2, 2, 1, 39), (1, 3), (1, 2), (0, 1, 0, 1), (1, 20)),
    "13x13": ((2, 2, 20, 21), (13, 13), (1, 1), (6, 6, 6, 6), (20, 21)),
    "9x20/3x2": ((1, 2, 33, 50), (9, 20), (3, 2), (1, 3, 4, 5), (10, 20)),
}


def window_of(case, lanes, source_pad, target_pad):
    (n, c, h, w), kernel, strides, (top, left, _, _), size = CASES[case]
    source = padded((n, c, h, w), source_pad, lanes, clean=source_pad > 1)
    return Window(source, padded((n, c, *size), target_pad, lanes, clean=target_pad > 0), kernel, strides,
                  begins=(top, left))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("source_pad", "target_pad"), [(1, 0), (3, 1)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_maximum(case, source_pad, target_pad, target):
    params = PoolParams(window_of(case, isa(target).lanes, source_pad, target_pad))
    x = flat(images_like(params.window.source) - 3, params.window.source)  # below the zeros of the padding
    func = pool_padded.build(params, isa(target, threads=1 + target_pad))
    result = run_guarded(func, target, x, out=params.window.target.size)
    assert_same(result, pool_padded.reference(x, params))


def test_a_running_maximum_is_not_written_out_in_every_condition():
    params = PoolParams(window_of("3x3/2", 16, 3, 1))
    begin = time.process_time()
    compiled(pool_padded.build(params, isa("cpu-generic")), "cpu-generic")
    assert time.process_time() - begin < 10  # it takes a fifth of a second, or half a minute


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("count_padding", "source_pad"), [(False, 1), (True, 3), (False, 3)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_average(case, count_padding, source_pad, target):
    ends = CASES[case][3][2:]
    params = PoolParams(window_of(case, isa(target).lanes, source_pad, 1), average=True, ends=ends,
                        count_padding=count_padding)
    x = flat(images_like(params.window.source), params.window.source)
    func = pool_padded.build(params, isa(target))
    shares = pool_padded.pack(params, isa(target)).values()
    result = run_guarded(func, target, *shares, x, out=params.window.target.size)
    assert_same(result, pool_padded.reference(x, params), tolerance=1e-5)


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_reference_is_onnxruntime(case, count_padding):
    import onnxruntime
    from onnx import TensorProto, helper
    shape, kernel, strides, pads, size = CASES[case]
    window = window_of(case, 16, 0, 0)
    ceil = any((extent + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 < size[i]
               for i, extent in enumerate(shape[2:]))
    for average in (False, True):
        params = PoolParams(window, average, pads[2:], count_padding)
        options = {"count_include_pad": int(count_padding)} if average else {}
        node = helper.make_node("AveragePool" if average else "MaxPool", ["x"], ["y"], kernel_shape=kernel,
                                strides=strides, pads=pads, ceil_mode=int(ceil), **options)
        graph = helper.make_graph([node], "pool", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        images = images_like(window.source)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, {"x": images})[0]
        assert expected.shape[2:] == size
        assert_same(pool_padded.reference(flat(images, window.source), params), flat(expected, window.target), 1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 5, 7, 7), (2, 3, 4, 33), (1, 1, 1, 1), (3, 2, 5, 160)], ids=str)
def test_global_average(shape, target):
    source = padded(shape, 1, isa(target).lanes, clean=False)
    x = flat(images_like(source), source)
    func = pool_padded.build_global_average(source, isa(target, threads=2))
    result = run_guarded(func, target, x, out=shape[0] * shape[1])
    assert_same(result, pool_padded.global_average_reference(x, source).ravel(), tolerance=1e-5)
