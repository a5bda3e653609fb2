"""Whole models of `cuda_bench.py`: sparsec's artifact beside the same network in PyTorch, float16 in CUDA graphs.

The networks are those of `make_models.py`. PyTorch's peer has batch normalisation folded into its convolutions, images
with channels last, and fused attention; in a second one, 2:4 weights of linear layers run by cuSPARSELt.
"""

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
from cuda_clock import Engine, relative_error

MODELS = ("bert-24", "resnet50-24", "decoder-24", "bert-24x8", "resnet50-24x8", "bert-24x32", "resnet50-24x32")
"""Those of `build` without names, the most telling first; decoders are `cuda_decoder.py`'s."""


EARLY = ("bert-24", "resnet50-24")
"""Those whose kernels are also launched before the ones in front of them have ended."""


def parted(model):
    """A name of `make_models.py`, and how many sequences or images."""
    name, _, batch = model.partition("x")
    return name, int(batch or 1)


def build(folder, target, models):
    """Compile models and write what running them needs; returns the cases for the plan.

    A model is a name of `make_models.py`, with "x8" behind it for batches of eight, or an ONNX file, which has no peer
    in PyTorch.
    """
    import onnxruntime
    from cuda_kernels import may_be_early
    from make_models import make

    from sparsec.compiler.compile import compile as compile_model
    from sparsec.graph import reader
    from sparsec.graph.compare import random_feeds
    from sparsec.target import resolve

    cases = []
    for model in models:
        path = Path(model) if model.endswith(".onnx") else make(parted(model)[0], folder, parted(model)[1])
        name = path.stem
        artifact = compile_model(path, target, verify=False, dependent_launch="off")
        artifact.save(folder / f"{name}.sparsec")
        early = model in EARLY and may_be_early(resolve(target))
        if early:
            compile_model(path, target, verify=False, dependent_launch="on").save(folder / f"{name}-early.sparsec")
        feeds = random_feeds(reader.load(path))
        outputs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
        np.savez(folder / f"{name}.npz", output=outputs[0], **{f"input {key}": each for key, each in feeds.items()})
        if not model.endswith(".onnx"):
            save_peer(parted(model)[0], folder / f"{parted(model)[0]}.pt")
            path.unlink()  # the artifact and the peer have the weights
        layers = artifact.report["layers"]
        cases.append({"case": name, "kind": "model", "peer": not model.endswith(".onnx"), "early": early,
                      "predicted_us": sum(each["predicted_us"] for each in layers),
                      "formats": sorted({each["format"] for each in layers})})
        print(f"{name}: compiled", flush=True)
    return cases


def save_peer(model, path):
    """Write the weights of a network as PyTorch runs it."""
    import torch
    from make_models import network

    torch.save(folded(network(model)[0]).half().state_dict(), path)


def folded(net):
    """The network with batch normalisation in its convolutions, which it changes, and attention by one function."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in net.eval().modules():
        if isinstance(module, nn.Sequential):
            for index, (first, second) in enumerate(pairwise(list(module))):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
        if hasattr(module, "fused"):
            module.fused = True
    return net


def engines(folder, case, clock):
    """The engines of a case: sparsec's session and, for a network that PyTorch has, PyTorch's."""
    with np.load(folder / f"{case['case']}.npz") as arrays:
        feeds = {key.removeprefix("input "): arrays[key] for key in arrays.files if key.startswith("input ")}
        expected = arrays["output"]
    given = folder, case["case"], feeds, expected, clock
    found = {"sparsec": functools.partial(own, *given)}
    if case.get("early"):
        found["sparsec, early"] = functools.partial(own, *given, early=True)
    if case["peer"]:
        found["PyTorch dense"] = functools.partial(peer, *given)
        if parted(case["case"])[0].endswith("-24"):
            found["PyTorch 2:4, cuSPARSELt"] = functools.partial(peer, *given, sparse=True)
    return found


def own(folder, name, feeds, expected, clock, *, early=False):
    """sparsec's session; its kernels alone, and what a caller waits for. Kernels of an `early` one are launched before
    those in front of them have ended."""
    import torch

    from sparsec.runtime.session import InferenceSession

    session = InferenceSession(str(folder / f"{name}{'-early' * early}.sparsec"))
    output = torch.from_numpy(session.run(None, feeds)[0])
    call = session.resident(feeds)
    for _ in range(2):  # the second finds the memory that the first has given back, so that none is asked for later
        call()
    clock.wait()
    told = {"early_of": "sparsec"} if early else {}
    return Engine([call], relative_error(output, torch.from_numpy(expected)), told, count=1,
                  wait=lambda _recording: session.run(None, feeds))


def peer(folder, name, feeds, expected, clock, *, sparse=False):
    """The network in PyTorch; its kernels alone, and with copies of inputs and output."""
    import torch
    from make_models import NETWORKS

    device = clock.name
    net = folded(NETWORKS[name.rsplit("-", 1)[0]]()[0]).half()
    net.load_state_dict(torch.load(folder / f"{parted(name)[0]}.pt", weights_only=True))
    net = net.to(device, memory_format=torch.channels_last)
    if sparse:
        converted = to_sparse(net)
    inputs = [torch.from_numpy(each) for each in feeds.values()]
    inputs = [each.half() if each.is_floating_point() else each for each in inputs]
    inside = [each.to(device, memory_format=torch.channels_last) if each.ndim == 4 else each.to(device)
              for each in inputs]

    def call():
        with torch.inference_mode():
            return net(*inside)

    def wait(recording):
        for to, each in zip(inside, inputs, strict=True):
            to.copy_(each)
        recording.replay()
        return recording.result.cpu()

    for _ in range(3):  # cuDNN tries its algorithms in the first
        output = call()
    clock.wait()
    error = relative_error(output.cpu(), torch.from_numpy(expected))
    return Engine([call], error, {"sparse_layers": converted} if sparse else {}, count=1, wait=wait)


def to_sparse(net):
    """Give linear layers semi-structured weights; returns how many took one."""
    import torch

    torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = False  # noqa: SLF001 - documented so
    convert, count = torch.sparse.to_sparse_semi_structured, 0
    for module in net.modules():
        if isinstance(module, torch.nn.Linear) and not any(size % 16 for size in module.weight.shape):
            module.weight = torch.nn.Parameter(convert(module.weight.detach()), requires_grad=False)
            count += 1
    if not count:
        raise ValueError("no linear layer has multiples of 16 features, as semi-structured weights need")
    return count
