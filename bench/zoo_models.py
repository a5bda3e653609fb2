"""The architectures of the zoo: how each is built from its library, without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

IMAGE = (1, 3, 224, 224)
TORCHVISION = {
    **dict.fromkeys(("alexnet", "resnet18", "resnet50", "resnext50_32x4d", "squeezenet1_1", "densenet121",
                     "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet1_0",
                     "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny",
                     "swin_t", "swin_v2_t", "vit_b_32", "maxvit_t"), IMAGE),
    "googlenet": IMAGE, "inception_v3": (1, 3, 299, 299),
}
TIMM = ("convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "efficientnet_lite0",
        "mobilenetv4_conv_small", "mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small", "ghostnet_100",
        "hardcorenas_a", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", "poolformer_s12", "pit_ti_224",
        "levit_128s", "xcit_nano_12_p16_224", "coat_tiny", "crossvit_tiny_240", "pvt_v2_b0", "fastvit_t8",
        "repvgg_a0", "rexnet_100", "tinynet_e", "lcnet_050", "efficientformer_l1", "efficientvit_b0", "tiny_vit_5m_224",
        "hgnetv2_b0", "starnet_s1", "inception_next_atto", "mobileone_s0", "semnasnet_075", "visformer_tiny", "resnest14d",
        "hrnet_w18_small")
SEGMENTATION = ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
DETECTION = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn")
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
         "vocab_size": 500}
HEADS = {"num_key_value_heads": 2}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL), "roberta": ("Roberta", SMALL), "electra": ("Electra", SMALL), "albert": (
        "Albert", {**SMALL, "embedding_size": 64}),
    "distilbert": ("DistilBert", {"dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 512, "vocab_size": 500}),
    "mobilebert": ("MobileBert", {**SMALL, "embedding_size": 64, "intra_bottleneck_size": 64}),
    "deberta_v2": ("DebertaV2", {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                                 "position_buckets": 16, "max_relative_positions": 32}),
    "gpt2": ("GPT2", {"n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "gpt_neox": ("GPTNeoX", SMALL), "opt": ("OPT", {**SMALL, "ffn_dim": 512, "word_embed_proj_dim": 128}),
    "llama": ("Llama", {**SMALL, **HEADS}), "qwen2": ("Qwen2", {**SMALL, **HEADS}), "mistral": (
        "Mistral", {**SMALL, **HEADS}), "gemma": ("Gemma", {**SMALL, **HEADS, "head_dim": 32}), "phi": ("Phi", SMALL),
    "bloom": ("Bloom", {"hidden_size": 128, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "xlm": ("XLMRoberta", SMALL), "funnel": ("Funnel", {"vocab_size": 500, "block_sizes": [1, 1], "d_model": 128,
                                                        "n_head": 4, "d_head": 32, "d_inner": 256}),
    "t5_encoder": ("T5Encoder", {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4,
                                 "vocab_size": 500}),
    "clip_text": ("CLIPText", SMALL), "squeezebert": ("SqueezeBert", {**SMALL, "embedding_size": 128}),
    "nystromformer": ("Nystromformer", {**SMALL, "segment_means_seq_len": 32, "num_landmarks": 8}),
}
TOKENS = 32

SKLEARN = ("kmeans", "gaussian_process", "mlp", "pca", "ridge", "logistic")

Build = Callable[[], tuple[Any, tuple[Any, ...]]]


def builders() -> dict[str, Build]:
    """What makes every model and its inputs, by name."""
    found: dict[str, Build] = {}
    for name, shape in TORCHVISION.items():
        found[f"tv_{name}"] = lambda name=name, shape=shape: (_torchvision(name), (_image(shape),))
    for name in TIMM:
        found[f"timm_{name}"] = lambda name=name: _timm(name)
    for name in SEGMENTATION:
        found[f"seg_{name}"] = lambda name=name: (_first_value(_torchvision(name, "segmentation")), (_image(IMAGE),))
    for name in VIDEO:
        side = 224 if name == "s3d" else 112
        found[f"video_{name}"] = lambda name=name, side=side: (
            _torchvision(name, "video"), (_image((1, 3, 16, side, side)),))
    for name in DETECTION:
        found[f"det_{name}"] = lambda name=name: (_torchvision(name, "detection"), ([_image((3, 320, 320))],))
    for name in TRANSFORMERS:
        found[f"hf_{name}"] = lambda name=name: _transformers(name)
    found |= {"rnn_lstm": lambda: _recurrent("LSTM"), "rnn_gru": lambda: _recurrent("GRU"), "encoder": _encoder,
              "hf_vit": _vit, "hf_whisper_encoder": _whisper, "hf_segformer": _segformer, "hf_wav2vec2": _wav2vec2}
    return found


def _image(shape: tuple[int, ...]) -> Any:
    import torch

    return torch.randn(shape)


def _torchvision(name: str, family: str = "") -> Any:
    from torchvision import models

    options = {"weights_backbone": None} if family in ("segmentation", "detection") else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    return getattr(getattr(models, family) if family else models, name)(weights=None, **options)


def _first_value(model: Any) -> Any:
    """A model that gives the "out" of another's dictionary."""
    from torch import nn

    class Out(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            return self.inner(x)["out"]

    return Out()


def _timm(name: str) -> tuple[Any, tuple[Any, ...]]:
    import timm

    model = timm.create_model(name, pretrained=False, exportable=True)
    return model, (_image((1, *model.default_cfg["input_size"])),)


def _transformers(name: str) -> tuple[Any, tuple[Any, ...]]:
    import torch
    import transformers

    kind, sizes = TRANSFORMERS[name]
    config_name = "T5" if kind == "T5Encoder" else kind
    config = getattr(transformers, f"{config_name}Config")(**sizes)
    config._attn_implementation = "eager"  # noqa: SLF001 - the documented way to export without fused attention
    model = getattr(transformers, f"{kind}Model")(config)
    return _plain(model), (torch.randint(5, 400, (1, TOKENS)), torch.ones(1, TOKENS, dtype=torch.int64))


def _plain(model: Any) -> Any:
    """A transformer that takes ids and a mask and gives its last hidden state."""
    from torch import nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Any, mask: Any) -> Any:
            options = {"use_cache": False} if hasattr(self.inner.config, "use_cache") else {}
            return self.inner(input_ids=ids, attention_mask=mask, return_dict=True, **options).last_hidden_state

    return Plain()


def _recurrent(kind: str) -> tuple[Any, tuple[Any, ...]]:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = getattr(nn, kind)(64, 128, 2, bidirectional=True)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.cells(x)[0])

    return Recurrent(), (torch.randn(20, 1, 64),)


def _encoder() -> tuple[Any, tuple[Any, ...]]:
    import torch
    from torch import nn

    return nn.TransformerEncoder(nn.TransformerEncoderLayer(192, 6, 768), 2), (torch.randn(196, 1, 192),)


def _vit() -> tuple[Any, tuple[Any, ...]]:
    import transformers

    config = transformers.ViTConfig(hidden_size=192, num_hidden_layers=2, num_attention_heads=6, intermediate_size=768)
    config._attn_implementation = "eager"  # noqa: SLF001 - the documented way to export without fused attention
    model = transformers.ViTModel(config)
    return _state(model), (_image(IMAGE),)


def _whisper() -> tuple[Any, tuple[Any, ...]]:
    import transformers

    config = transformers.WhisperConfig(d_model=128, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=512,
                                        decoder_layers=1, decoder_attention_heads=4, vocab_size=500, pad_token_id=1,
                                        bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, max_source_positions=100)
    config._attn_implementation = "eager"  # noqa: SLF001 - the documented way to export without fused attention
    return _state(transformers.WhisperModel(config).encoder), (_image((1, 80, 200)),)


def _segformer() -> tuple[Any, tuple[Any, ...]]:
    import transformers

    config = transformers.SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 96, 128])
    return _state(transformers.SegformerModel(config)), (_image((1, 3, 128, 128)),)


def _wav2vec2() -> tuple[Any, tuple[Any, ...]]:
    import transformers

    config = transformers.Wav2Vec2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                                         intermediate_size=512, conv_dim=(64,) * 7, num_conv_pos_embeddings=32,
                                         num_conv_pos_embedding_groups=4)
    config._attn_implementation = "eager"  # noqa: SLF001 - the documented way to export without fused attention
    return _state(transformers.Wav2Vec2Model(config)), (_image((1, 8000)),)


def _state(model: Any) -> Any:
    """A model that gives its last hidden state."""
    from torch import nn

    class State(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            return self.inner(x, return_dict=True).last_hidden_state

    return State()
