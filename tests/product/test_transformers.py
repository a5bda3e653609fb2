"""Artifacts under transformers' pipelines, beside onnxruntime on the same tokens."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402 - transformers brings it

import sparsec  # noqa: E402 - behind the check that both are there
from sparsec.errors import InputError, UsageError  # noqa: E402
from sparsec.graph.compare import run_onnxruntime  # noqa: E402
from sparsec.integrations.transformers_models import (  # noqa: E402
    SparsecModelForCausalLM,
    SparsecModelForSequenceClassification,
    sampling_of,
)
from tests.support.texts import model  # noqa: E402

WORDS = ["[PAD]", "[UNK]", *"abcdefghij"]
TEXTS = ["a b c", "d e f g", "a"]
CLASSIFIER = model("""g (int64[b, n] input_ids, int64[b, n] attention_mask) => (float[b, 3] logits)
    <float[12, 8] table, float[8, 3] w, int64[1] two, int64[1] one> {
    x = Gather(table, input_ids)
    m = Cast<to=1>(attention_mask)
    column = Unsqueeze(m, two)
    y = Mul(x, column)
    sum = ReduceSum<keepdims=0>(y, one)
    logits = MatMul(sum, w)
}""", one=np.array([1]), two=np.array([2]))
DECODER = model("""lm (int64[batch, tokens] input_ids, float[batch, past, 12] past)
    => (float[batch, tokens, 12] logits, float[batch, n, 12] present)
    <float[12, 12] table, float[12, 12] w, int64[1] one> {
    y = Gather(table, input_ids)
    present = Concat<axis=1>(past, y)
    sum = ReduceSum<keepdims=1>(present, one)
    h = Add(y, sum)
    logits = MatMul(h, w)
}""", one=np.array([1]))


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a classifier and a decoder, as `from_pretrained` opens them."""
    found = []
    for proto, config in ((CLASSIFIER, transformers.BertConfig(vocab_size=12, num_labels=3)),
                          (DECODER, transformers.GPT2Config(vocab_size=12, eos_token_id=None, bos_token_id=None))):
        folder = tmp_path_factory.mktemp("model")
        sparsec.compile(proto, tune="off").save(folder / "model.sparsec")
        config.save_pretrained(folder)
        found.append(folder)
    return found


def tokens(text):
    return [WORDS.index(word) for word in text.split()]


@pytest.mark.parametrize("batch", [1, 3])
def test_texts_are_classified_as_by_onnxruntime(folders, tokenizer, batch, caplog):
    own = SparsecModelForSequenceClassification.from_pretrained(folders[0], threads=1)
    pipeline = transformers.pipeline("text-classification", model=own, tokenizer=tokenizer, top_k=None)
    for text, found in zip(TEXTS, pipeline(TEXTS, batch_size=batch), strict=True):
        ids = np.array([tokens(text)])
        (logits,) = run_onnxruntime(CLASSIFIER, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        shares = np.exp(logits[0] - logits.max()) / np.exp(logits[0] - logits.max()).sum()
        scores = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([scores[f"LABEL_{number}"] for number in range(3)], shares, atol=1e-5)
    assert "not supported" not in caplog.text


def greedy(text, count):
    found = tokens(text)
    for _ in range(count):
        feeds = {"input_ids": np.array([found]), "past": np.zeros((1, 0, 12), np.float32)}
        found.append(int(run_onnxruntime(DECODER, feeds)[0][0, -1].argmax()))
    return found


@pytest.mark.parametrize("batch", [1, 3])
def test_texts_are_continued_as_by_onnxruntime(folders, tokenizer, batch):
    own = SparsecModelForCausalLM.from_pretrained(folders[1], threads=1)
    pipeline = transformers.pipeline("text-generation", model=own, tokenizer=tokenizer)
    made = pipeline(TEXTS, batch_size=batch, max_new_tokens=5, do_sample=False, return_tensors=True)
    for text, (each,) in zip(TEXTS, made, strict=True):
        assert [int(token) for token in each["generated_token_ids"] if token] == [
            token for token in greedy(text, 5) if token]


def test_draws_repeat_and_texts_end(folders):
    own = SparsecModelForCausalLM.from_pretrained(folders[1])
    prompt = torch.tensor([tokens("a b")])
    first, second = (own.generate(prompt, max_length=9, do_sample=True, temperature=9.0, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 9)
    end = greedy("a b", 3)[2]
    assert own.generate(prompt, max_new_tokens=6, eos_token_id=end).tolist() == [[*tokens("a b"), end]]


def test_what_transformers_parameters_mean():
    assert sampling_of({"top_k": 5, "max_length": 30}, 10, 1) == sparsec.Sampling(max_new_tokens=20, seed=1)
    drawn = sampling_of({"do_sample": True, "top_k": 5, "eos_token_id": [1, 2]}, 10, 0)
    assert drawn == sparsec.Sampling(temperature=1.0, top_k=5, stop=(1, 2))
    for options, reason in (({"num_beams": 4}, "num_beams=4"), ({"typical_p": 0.5}, "typical_p is not"),
                            ({"max_length": 10}, "max_new_tokens=0")):
        with pytest.raises(UsageError, match=reason):
            sampling_of(options, 10, 0)


def test_wrong_calls_are_refused(folders, tmp_path):
    classifier, decoder = (SparsecModelForSequenceClassification.from_pretrained(folders[0]),
                           SparsecModelForCausalLM.from_pretrained(folders[1]))
    ids = torch.tensor([[2, 3]])
    same = classifier(ids).logits
    assert torch.equal(classifier(ids, token_type_ids=torch.zeros_like(ids)).logits, same)
    with pytest.raises(UsageError, match="does not take 'token_type_ids'"):
        classifier(ids, token_type_ids=ids)
    with pytest.raises(InputError, match="'pixels'"):
        classifier(ids, pixels=ids)
    with pytest.raises(UsageError, match="cannot move to 'cuda'"):
        classifier.to("cuda")
    with pytest.raises(UsageError, match="padding_side to 'left'"):
        decoder.generate(ids, torch.tensor([[1, 0]]))
    with pytest.raises(UsageError, match=r"holds no model.sparsec; `sparsec compile"):
        SparsecModelForCausalLM.from_pretrained(tmp_path)
