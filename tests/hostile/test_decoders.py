"""Files beside decoders that others wrote: refused by name, whatever they hold."""

import json

import pytest

from sparsec.errors import UsageError
from sparsec.generation.sampling import read_config
from sparsec.generation.text import Text

CONFIGS = ["", "[]", "null", "[" * 100_000, '{"a":' * 100_000, '{"temperature": NaN, "do_sample": true}',
           '{"temperature": Infinity, "do_sample": true}', '{"top_k": "x"}', '{"top_k": 1.5}', '{"top_k": true}',
           f'{{"max_new_tokens": 1{"0" * 30}}}', f'{{"seed": {"9" * 5000}}}', '{"seed": -1}', '{"eos_token_id": 1e400}',
           '{"eos_token_id": ["a", null, {}]}', '{"eos_token_id": {}}', '{"top_p": NaN}', '{"repetition_penalty": []}',
           '{"top_k": "\\u001b[2J"}', '{"top_k": 1}' + " " * (1 << 20) + "x"]
WORDS = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
         "pre_tokenizer": None, "post_processor": None, "decoder": None,
         "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "b"}}
TOKENIZERS = {
    "nothing": "", "deep": '{"model":' * 100_000, "a panic when it is read": {
        **WORDS, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a panic when it is used": {**WORDS, "post_processor": {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "zz", "type_id": 0}}], "pair": [],
        "special_tokens": {}}},
    "a panic at words": {**WORDS, "decoder": {"type": "Strip", "content": "a", "start": 1 << 50, "stop": 1 << 50}},
    "an unknown word": {**WORDS, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "zz"}},
}


@pytest.mark.parametrize("text", CONFIGS, ids=range(len(CONFIGS)))
def test_configurations_that_are_none_are_refused(text, tmp_path):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"generation_config\.json: not a configuration") as raised:
        read_config(tmp_path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_are_none_are_refused(name, tmp_path, capfd):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    (tmp_path / "tokenizer.json").write_text(given if isinstance(given := TOKENIZERS[name], str) else json.dumps(given))
    with pytest.raises(UsageError, match=r"tokenizer\.json: not a tokenizer"):
        Text(tmp_path).words(Text(tmp_path).tokens("a c"))
    capfd.readouterr()  # what the library says of its panics


def test_tokenizers_neither_pad_nor_cut(tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**WORDS, "padding": padding}))
    assert Text(tmp_path).tokens("a") == [0]
