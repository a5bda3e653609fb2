"""A decoder's step of `cuda_bench.py`: one token behind so many others, sparsec's session beside PyTorch.

The network is that of `make_dynamic.py`. One artifact takes every length; its caches stay on the GPU, so that a call
sends a token and brings its logits, and keys and values of the token. Every call goes on where the one before ended:
the last of them has some twenty tokens more behind it. PyTorch's peer, in float16, writes into caches of just the
length of the step, by kernels one after the other ("eager") and from a CUDA graph, which is for this length alone.
"""

import functools

import numpy as np
from cuda_clock import Engine, relative_error

PAST = (127, 1000)
FIRST, SECOND = 2, 1
"""The last token of the past, and that of the step."""


def build(folder, target, models, past=PAST, **options):
    """Compile decoders, such as "decoder-24", and write what running them needs; returns the cases for the plan.

    Options are those of `compile`.
    """
    import make_dynamic
    import onnxruntime
    import torch
    from cuda_kernels import may_be_early

    from sparsec.compiler.compile import compile as compile_model
    from sparsec.target import resolve

    cases = []
    for model in models:
        path = make_dynamic.make(model, folder)
        early = may_be_early(resolve(target))
        for launch, end in {"off": "", **({"on": "-early"} if early else {})}.items():
            artifact = compile_model(path, target, verify=False, dependent_launch=launch, **options)
            artifact.save(folder / f"{model}{end}.sparsec")
        torch.save(make_dynamic.decoder(model.split("-")[1])[0].half().state_dict(), folder / f"{model}.pt")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[1:]
        shape = {"caches": [each.name for each in given], "heads": given[0].shape[1], "features": given[0].shape[3]}
        for length in past:
            case = {"case": f"{model}, past {length}", "kind": "decoder", "model": model, "past": length, "early": early,
                    **shape}
            _, *caches = session.run(None, before(case))
            logits = session.run(["logits"], feeds_of(case, SECOND, caches))[0]
            np.savez(folder / f"{model}-{length}.npz", logits=logits)
            cases.append(case)
        path.unlink()  # the artifact and the peer have the weights
        print(f"{model}: compiled", flush=True)
    return cases


def feeds_of(case, token, caches):
    """The inputs of a call for one token."""
    return {"input_ids": np.array([[token]]), **dict(zip(case["caches"], caches, strict=True))}


def before(case):
    """Those of the call that makes the caches of a case: a past that is shorter by one."""
    rng, shape = np.random.default_rng(case["past"]), (1, case["heads"], case["past"] - 1, case["features"])
    return feeds_of(case, FIRST, [rng.standard_normal(shape, np.float32) for _ in case["caches"]])


def engines(folder, case, clock):
    """The engines of a case."""
    given = folder, case, np.load(folder / f"{case['model']}-{case['past']}.npz")["logits"], clock
    early = {"sparsec, early": functools.partial(own, *given, early=True)} if case.get("early") else {}
    return {"sparsec": functools.partial(own, *given), **early,
            "PyTorch dense, eager": functools.partial(peer, *given, recorded=False),
            "PyTorch dense, graph": functools.partial(peer, *given, recorded=True)}


def own(folder, case, expected, _clock, *, early=False):
    """sparsec's session: a call, from the token to its logits. Kernels of an `early` one are launched before those in
    front of them have ended."""
    import torch

    from sparsec.runtime.session import InferenceSession

    session = InferenceSession(str(folder / f"{case['model']}{'-early' * early}.sparsec"))
    kept = [session.run(None, before(case))[1:]]

    def call():
        """A token more: the caches that a call returns are the next one's, so that none is copied or sent."""
        logits, *kept[0] = session.run(None, feeds_of(case, SECOND, kept[0]))
        return logits

    error = relative_error(torch.from_numpy(call()), torch.from_numpy(expected))
    for _ in range(3):  # the first of some sizes runs kernel by kernel, the second is recorded
        call()
    return Engine([], error, wait=lambda _recording: call())


def peer(folder, case, expected, clock, *, recorded):
    """The network in PyTorch; a call brings the token and takes the logits."""
    import make_dynamic
    import torch

    net = make_dynamic.Decoder().half()
    net.load_state_dict(torch.load(folder / f"{case['model']}.pt", weights_only=True))
    net, past = net.to(clock.name), case["past"]
    ids, *caches = map(torch.from_numpy, before(case).values())
    caches = [torch.nn.functional.pad(each, (0, 0, 0, 2)).half().to(clock.name) for each in caches]
    ids, token = ids.to(clock.name), torch.tensor([[SECOND]])
    inside = token.clone().to(clock.name)
    with torch.inference_mode():
        step(net, ids, caches, past - 1)
        for _ in range(3):
            logits = step(net, inside, caches, past)
    clock.wait()

    def call():
        with torch.inference_mode():
            return step(net, inside, caches, past)

    def wait(recording):
        inside.copy_(token)
        if recording is None:
            return call().cpu()
        recording.replay()
        return recording.result.cpu()

    error = relative_error(logits.cpu(), torch.from_numpy(expected))
    return Engine([call] if recorded else [], error, count=1, wait=wait)


def step(net, ids, caches, past):
    """The logits of a token; its keys and values go to the caches' place `past`, and what is behind is not read."""
    import torch
    from make_dynamic import DEPTH, WIDTH, repeated, rotated

    cos, sin = turns(past, DEPTH, ids.device)
    x = net.embedding(ids)
    for layer, keys, values in zip(net.layers, caches[::2], caches[1::2], strict=True):
        y = layer.norm1(x)
        q, k, v = (part(y).view(1, 1, -1, DEPTH).transpose(1, 2) for part in (layer.q, layer.k, layer.v))
        keys[:, :, past:past + 1], values[:, :, past:past + 1] = rotated(k, cos, sin), v
        mixed = torch.nn.functional.scaled_dot_product_attention(
            rotated(q, cos, sin), repeated(keys[:, :, :past + 1]), repeated(values[:, :, :past + 1]))
        x = x + layer.o(mixed.transpose(1, 2).reshape(1, 1, WIDTH))
        y = layer.norm2(x)
        x = x + layer.down(torch.nn.functional.silu(layer.gate(y)) * layer.up(y))
    return net.head(net.norm(x))


@functools.cache
def turns(place, depth, device):
    """Cosines and sines that turn the features of a token at a place, as a caller would keep them."""
    import torch

    angles = (place / 10000 ** (torch.arange(0, depth, 2).double() / depth)).repeat(2)
    return angles.cos().half().to(device), angles.sin().half().to(device)
