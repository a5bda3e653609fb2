#!/usr/bin/env python3
"""The decoder of `make_dynamic.py` as a folder of transformers, from which onnxruntime-genai builds its own form.

    python make_genai.py OUT_DIR [NAME]        e.g. decoder-50
    python -m onnxruntime_genai.models.builder -i OUT_DIR -o GENAI_DIR -p int4 -e cpu -c CACHE_DIR

Needs PyTorch and transformers; the builder needs both, onnxruntime, onnxruntime-genai and onnx-ir. The tokens are
words t0, t1, ..., since a builder wants a tokenizer. Its logits are compared with the decoder's.
"""

from __future__ import annotations

import sys

import torch
from make_dynamic import DEPTH, GROUPS, HEADS, INNER, LAYERS, VOCABULARY, WIDTH, decoder
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LONGEST = 4096
PROJECTIONS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
               "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "norm1": "input_layernorm",
               "norm2": "post_attention_layernorm"}
SPECIAL = {"unk_token": "t0", "bos_token": "t1", "eos_token": "t2"}


def llama(net: torch.nn.Module) -> LlamaForCausalLM:
    """The same weights in transformers' model."""
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, rms_norm_eps=1e-5, max_position_embeddings=LONGEST,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)).eval()
    weights = {"model.embed_tokens.weight": net.embedding.weight, "model.norm.weight": net.norm.weight,
               "lm_head.weight": net.head.weight}
    for index, layer in enumerate(net.layers):
        weights |= {f"model.layers.{index}.{theirs}.weight": getattr(layer, own).weight
                    for own, theirs in PROJECTIONS.items()}
    model.load_state_dict(weights, strict=False)
    return model


def main() -> None:
    out_dir, name = sys.argv[1], (*sys.argv[2:], "decoder-50")[0]
    net, *_ = decoder(name.split("-")[1])
    model, ids = llama(net), torch.randint(0, VOCABULARY, (1, 5))
    with torch.no_grad():
        expected = net(ids, *[torch.zeros(1, GROUPS, 0, DEPTH)] * (2 * LAYERS))[0]
        error = (model(ids).logits - expected).abs().max() / expected.abs().max()
    model.save_pretrained(out_dir)
    words = Tokenizer(models.WordLevel({f"t{token}": token for token in range(VOCABULARY)}, SPECIAL["unk_token"]))
    PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(out_dir)
    print(f"{out_dir}: logits differ by {error:.0e}")


if __name__ == "__main__":
    main()
