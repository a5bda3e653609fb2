"""Text from decoders: tokens equal a loop over onnxruntime, sampling keeps to its options, the command prints it."""

import gc
import json
import os
import tracemalloc
from array import array

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.errors import InputError, UsageError
from sparsec.generation.sampling import Sampling, read_config
from sparsec.graph.compare import run_onnxruntime
from sparsec.runtime.sized.growing import Copies

WORDS = 11
RNG = np.random.default_rng(3)
TEXT = f"""<ir_version: 8, opset_import: ["": 17]>
    lm (int64[batch, tokens] input_ids, MASKS float[batch, past, {WORDS}] past)
    => (float[batch, tokens, {WORDS}] logits, float[batch, n, {WORDS}] present) {{
  x = Gather(table, input_ids) WEIGH present = Concat<axis=1>(past, y)
  sum = ReduceSum<keepdims=1>(present, one) h = Add(y, sum) logits = MatMul(h, w)
}}"""
PLAIN = TEXT.replace("MASKS", "").replace("WEIGH", "y = Identity(x)")
MASKED = TEXT.replace("MASKS", "int64[batch, total] attention_mask, int64[batch, tokens] position_ids,").replace(
    "WEIGH", """shape = Shape(input_ids) count = Slice(shape, one, two) minus = Neg(count) zero1 = Sub(one, one)
  last = Slice(attention_mask, minus, end, one) m = Cast<to=1>(last) column = Unsqueeze(m, two)
  places = Cast<to=1>(position_ids) place = Unsqueeze(places, two) turned = Add(x, place) y = Mul(turned, column)""")


def model_of(text):
    model = onnx.parser.parse_model(text)
    arrays = {"table": RNG.standard_normal((WORDS, WORDS)).astype(np.float32), "one": np.array([1]),
              "two": np.array([2]), "end": np.array([2 ** 40]),
              "w": RNG.standard_normal((WORDS, WORDS)).astype(np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@pytest.fixture(scope="module", params=["plain", "masked"])
def decoder(request):
    model = model_of(PLAIN if request.param == "plain" else MASKED)
    return model, sparsec.compile(model, tune="off")


def greedy(model, prompt, count):
    """The likeliest tokens after a prompt, each from the whole text anew."""
    text = list(prompt)
    for _ in range(count):
        feeds = {"input_ids": np.array([text]), "past": np.zeros((1, 0, WORDS), np.float32)}
        if len(model.graph.input) > 2:
            feeds |= {"attention_mask": np.ones((1, len(text)), np.int64), "position_ids": np.arange(len(text))[None]}
        text.append(int(run_onnxruntime(model, feeds)[0][0, -1].argmax()))
    return text[len(prompt):]


def test_greedy_tokens_are_those_of_onnxruntime_in_batches_of_any_lengths(decoder):
    model, artifact = decoder
    prompts, told = [[1, 2, 3], [4], [5, 6, 7], [8, 9]], []
    found = sparsec.generate(sparsec.InferenceSession(artifact), prompts, Sampling(max_new_tokens=6),
                             on_token=lambda prompt, token: told.append((prompt, token)))
    assert found.tokens == [greedy(model, prompt, 6) for prompt in prompts]
    assert [[token for number, token in told if number == each] for each in range(4)] == found.tokens
    assert found.first_s > 0 < found.tokens_per_s


def test_texts_end_with_stop_tokens_and_draws_repeat(decoder):
    session = sparsec.InferenceSession(decoder[1])
    (whole,) = sparsec.generate(session, [1, 2], Sampling(max_new_tokens=8)).tokens
    (ended,) = sparsec.generate(session, [1, 2], Sampling(max_new_tokens=8, stop=(whole[3],))).tokens
    assert ended == whole[:whole.index(whole[3]) + 1]
    drawn = Sampling(max_new_tokens=12, temperature=5.0, seed=4)
    first, second = (sparsec.generate(session, [1], drawn).tokens for _ in range(2))
    assert first == second != sparsec.generate(session, [1], Sampling(max_new_tokens=12, temperature=5.0)).tokens


def drawn(**options):
    scores = np.array([3.0, 2.9, 1.0, -1.0, -9.0])
    rng, none = np.random.default_rng(0), np.array([], np.int64)
    return {Sampling(**options).choose(scores, none, rng) for _ in range(300)}


def test_sampling_keeps_to_its_options():
    assert drawn() == {0}
    assert drawn(temperature=1.0, top_k=2) == {0, 1}
    assert drawn(temperature=1.0, top_p=0.5) == {0, 1}
    assert drawn(temperature=1.0, top_p=0.3) == {0}
    assert drawn(temperature=1.0) >= {0, 1, 2}
    assert Sampling(repetition_penalty=2.0).choose(np.array([3.0, 2.9, -1.0]), np.array([0, 2]), None) == 1


def by_definition(scores, seen, penalty, temperature, top_k, top_p):
    """The probabilities as transformers' processors and warpers make them, in the order of its `generate`."""
    scores = scores.copy()
    scores[seen] = [score * penalty if score < 0 else score / penalty for score in scores[seen]]
    scores = scores / temperature
    if top_k:
        scores[scores < np.sort(scores)[-top_k]] = -np.inf
    ascending = np.argsort(scores, kind="stable")
    shares = np.exp(scores[ascending] - scores.max())
    removed = np.cumsum(shares / shares.sum()) <= 1 - top_p
    removed[-1] = False
    scores[ascending[removed]] = -np.inf
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


@pytest.mark.parametrize("options", [(1.0, 0.7, 0, 1.0), (1.3, 1.0, 5, 1.0), (0.8, 2.0, 0, 0.6), (1.2, 0.5, 7, 0.9)])
def test_probabilities_are_those_of_transformers(options):
    penalty, temperature, top_k, top_p = options
    sampling = Sampling(repetition_penalty=penalty, temperature=temperature, top_k=top_k, top_p=top_p)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, seen = rng.standard_normal(30), np.unique(rng.integers(0, 30, 6))
        tokens, shares = sampling.shares(scores, seen)
        own = np.zeros(30)
        own[tokens] = shares
        np.testing.assert_allclose(own, by_definition(scores, seen, *options), atol=1e-12)


def test_the_definition_is_that_of_transformers():
    torch = pytest.importorskip("torch", reason="transformers computes with it")
    process = pytest.importorskip("transformers.generation.logits_process", reason="checks the definition above")
    scores, seen = np.random.default_rng(0).standard_normal(30), np.array([3, 4, 9])
    chain = [process.RepetitionPenaltyLogitsProcessor(1.3), process.TemperatureLogitsWarper(0.7),
             process.TopKLogitsWarper(7), process.TopPLogitsWarper(0.8)]
    found = torch.tensor(scores)[None]
    for each in chain:
        found = each(torch.tensor(seen)[None], found)
    np.testing.assert_allclose(found.softmax(-1)[0], by_definition(scores, seen, 1.3, 0.7, 7, 0.8), atol=1e-12)


LONG = "SPARSEC_LONG" in os.environ
EVERY = 20  # calls between two looks at the memory


def test_caches_are_neither_copied_nor_allocated_anew(decoder):
    session = sparsec.InferenceSession(decoder[1])
    sparsec.generate(session, [1], Sampling(max_new_tokens=20))
    addresses, traced, copied = set(), array("q"), Copies.nbytes
    run, calls = session.run, 0

    def watched(names, feeds):
        nonlocal calls
        outputs = run(names, feeds)
        addresses.add(outputs[1].ctypes.data)
        if not calls % EVERY:
            gc.collect()  # or it is chance how much of what refers to itself is left
            traced.append(tracemalloc.get_traced_memory()[0])
        calls += 1
        return outputs

    session.run = watched
    tracemalloc.start()
    sparsec.generate(session, [1], Sampling(max_new_tokens=2000 if LONG else 150))
    tracemalloc.stop()
    assert (len(addresses), Copies.nbytes) == (1, copied)
    assert traced[-1] - traced[1] < 100 * calls + 4096  # the tokens themselves, and what grows in steps


WRONG = {"max_new_tokens": 0, "temperature": -1.0, "top_k": -1, "top_p": 0.0, "repetition_penalty": 0.0}


@pytest.mark.parametrize("name", WRONG)
def test_options_out_of_range_are_refused(name):
    with pytest.raises(UsageError, match=f"{name}={WRONG[name]}"):
        Sampling(**{name: WRONG[name]})


def test_a_configuration_beside_the_model_is_read(tmp_path):
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "temperature": 0.5, "top_k": 7, "eos_token_id": [3, 4]}))
    assert read_config(tmp_path, top_k=9) == Sampling(temperature=0.5, top_k=9, stop=(3, 4))
    path.write_text(json.dumps({"temperature": 0.5, "eos_token_id": 3}))
    assert read_config(tmp_path) == Sampling(stop=(3,))
    path.write_text("{")
    with pytest.raises(UsageError, match="not a configuration"):
        read_config(tmp_path)


def test_prompts_and_models_that_are_none_are_refused(decoder):
    session = sparsec.InferenceSession(decoder[1])
    with pytest.raises(UsageError, match="empty"):
        sparsec.generate(session, [[1], []])
    with pytest.raises(InputError, match="token 99 is outside the model's vocabulary of 11"):
        sparsec.generate(session, [1, 99])
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }'
    other = sparsec.InferenceSession(sparsec.compile(onnx.parser.parse_model(text), tune="off"))
    with pytest.raises(UsageError, match="no input 'input_ids'"):
        sparsec.generate(other, [1])


def test_the_command_continues_tokens_and_words(decoder, tmp_path):
    path = tmp_path / "m.sparsec"
    decoder[1].save(path)
    arguments = ["generate", str(path), "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, [*arguments, "--prompt", "1,2,3", "--json", str(tmp_path / "f.json")])
    (tokens,) = json.loads((tmp_path / "f.json").read_text())["tokens"]
    assert tokens == greedy(decoder[0], [1, 2, 3], 3)
    assert done.stdout.startswith(",".join(map(str, tokens)))
    assert "a second" in done.stdout
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    done = CliRunner().invoke(app, [*arguments, "--prompt", "w1 w2 w3"])
    assert done.stdout.startswith(" ".join(f"w{token}" for token in tokens))
