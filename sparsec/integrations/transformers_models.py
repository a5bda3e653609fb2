"""Artifacts under transformers' pipelines: classes with the interface of its models, around a session."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError
from sparsec.generation.loop import generate
from sparsec.generation.sampling import Sampling
from sparsec.runtime.session import InferenceSession

ARTIFACT, MODEL = "model.sparsec", "model.onnx"
"""The file that `from_pretrained` opens beside `config.json`, and what exporters call the one it is compiled from."""
SILENT: Mapping[str, int] = {"attention_mask": 1, "token_type_ids": 0}
"""Inputs that say nothing where they hold this number alone: given where they are missing, left out where the model
does not take them.
"""
SAMPLED = ("temperature", "top_k", "top_p")
"""Parameters of generation that count where `do_sample` is set."""
OTHERS = {"num_beams": 1, "num_return_sequences": 1, "min_new_tokens": 0, "min_length": 0, "no_repeat_ngram_size": 0,
          "return_dict_in_generate": False, "use_cache": True}
"""Further ones that may be given with this value, or None, alone."""


class SparsecConfig(PretrainedConfig):
    """What transformers lists the classes below under; their own configurations are those of the models."""

    model_type = "sparsec"


class SparsecModel:
    """A session with what transformers' pipelines ask of a model.

    Args:
        artifact: as `InferenceSession` takes it.
        config: of the model, as transformers' own classes have it.
        threads: that a call may use; None for as many as it was compiled for and the machine has.

    Raises:
        SparsecError: as opening a session raises.

    """

    config_class = SparsecConfig
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, artifact: Artifact | str | Path, config: Any, threads: int | None = None) -> None:
        self.session = InferenceSession(artifact, threads)
        self.config = config
        self.generation_config: Any = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, threads: int | None = None) -> Self:
        """Open a folder of a model: its artifact, `model.sparsec`, and its configuration.

        Raises:
            UsageError: the folder holds no artifact.
            SparsecError: as opening a session raises.

        """
        path = Path(folder) / ARTIFACT
        if not path.is_file():
            raise UsageError(f"{folder} holds no {ARTIFACT}; `sparsec compile {shlex.quote(str(Path(folder) / MODEL))} "
                             f"-o {shlex.quote(str(path))}`")
        return cls(path, AutoConfig.from_pretrained(folder, local_files_only=True), threads)

    def can_generate(self) -> bool:
        """Whether it has `generate`."""
        return False

    def eval(self) -> Self:
        """Itself: it never trains."""
        return self

    def to(self, device: Any) -> Self:
        """Itself, which stays where the artifact was compiled for.

        Raises:
            UsageError: another device is asked for.

        """
        if torch.device(device) != self.device:
            raise UsageError(f"the model cannot move to '{device}': tensors go in and come out on the processor")
        return self


class SparsecModelForSequenceClassification(SparsecModel):
    """A classifier of texts, for the pipeline "text-classification"."""

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> Any:
        """The scores (batch, labels) of tokens (batch, length), as transformers' `SequenceClassifierOutput`.

        Args:
            input_ids: the tokens.
            inputs: what else the model takes, by name.

        Raises:
            UsageError: an input that the model does not take says something.
            InputError: as `InferenceSession.run`.

        """
        whole = {"input_ids": input_ids} | inputs
        arrays: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in whole.items()}
        taken = {each.name: each.dtype for each in self.session.get_inputs()}
        for name, silent in SILENT.items():
            if name in taken:
                arrays.setdefault(name, np.full(input_ids.shape, silent))
            elif np.any(arrays.pop(name, silent) != silent):
                raise UsageError(f"the model does not take '{name}', which is not {silent} throughout; give texts of "
                                 "one length, or export the model with that input")
        feeds = {name: array.astype(taken[name], copy=False) if name in taken else array
                 for name, array in arrays.items()}
        names = [each.name for each in self.session.get_outputs()]
        (logits,) = self.session.run(["logits" if "logits" in names else names[0]], feeds)
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    __call__ = forward


class SparsecModelForCausalLM(SparsecModel):
    """A decoder with caches, for the pipeline "text-generation"."""

    def __init__(self, artifact: Artifact | str | Path, config: Any, threads: int | None = None) -> None:
        super().__init__(artifact, config, threads)
        self.generation_config = GenerationConfig.from_model_config(config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, threads: int | None = None) -> Self:
        """As the others, with `generation_config.json` where there is one."""
        model = super().from_pretrained(folder, threads)
        if (Path(folder) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        return model

    def can_generate(self) -> bool:
        """It does."""
        return True

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
                 generation_config: Any = None, *, seed: int = 0, **options: Any) -> torch.Tensor:
        """Continue texts by `sparsec.generate`.

        Args:
            input_ids: tokens (batch, length), padded in front.
            attention_mask: 0 (batch, length) where `input_ids` are padding.
            generation_config: in place of the model's.
            seed: of what is drawn.
            options: of generation, by transformers' names: `max_new_tokens` or `max_length`, `do_sample`,
                `temperature`, `top_k`, `top_p`, `repetition_penalty`, `eos_token_id`, `pad_token_id`.

        Returns:
            The texts (batch, length + new tokens), with `pad_token_id` behind those that ended first.

        Raises:
            UsageError: an option that sparsec does not have, or padding that is not in front.
            SparsecError: as `sparsec.generate`.

        """
        config = {**_told(self.generation_config), **_told(generation_config), **options}
        sampling = sampling_of(config, input_ids.shape[1], seed)
        made = generate(self.session, _prompts(input_ids, attention_mask), sampling).tokens
        longest = max(map(len, made))
        pad = config.get("pad_token_id")
        pad = pad if pad is not None else sampling.stop[0] if sampling.stop else 0
        rows = [own + [pad] * (longest - len(own)) for own in made]
        return torch.cat([input_ids, torch.tensor(rows, dtype=input_ids.dtype)], dim=1)


def sampling_of(config: Mapping[str, Any], length: int, seed: int) -> Sampling:
    """What transformers' parameters of generation say.

    Args:
        config: the parameters that are set.
        length: of the prompts, which `max_length` counts.
        seed: of what is drawn.

    Raises:
        UsageError: a parameter that sparsec does not have, or one out of its range.

    """
    for name, only in OTHERS.items():
        if config.get(name) not in (None, only):
            raise UsageError(f"{name}={config[name]} is not among what sparsec generates by; leave it at {only}")
    known = {*SAMPLED, *OTHERS, "max_new_tokens", "max_length", "do_sample", "repetition_penalty", "eos_token_id",
             "pad_token_id", "bos_token_id", "decoder_start_token_id", "transformers_version"}
    if unknown := sorted(name for name, value in config.items() if name not in known and value):
        raise UsageError(f"{unknown[0]} is not among what sparsec generates by; leave it out")
    given: dict[str, Any] = {name: config[name] for name in ("max_new_tokens", "repetition_penalty")
                             if config.get(name) is not None}
    if "max_new_tokens" not in given and config.get("max_length") is not None:
        given["max_new_tokens"] = config["max_length"] - length
    if config.get("do_sample"):
        given |= {"temperature": 1.0} | {name: config[name] for name in SAMPLED if config.get(name) is not None}
    end = config.get("eos_token_id")
    stop = tuple(end) if isinstance(end, list | tuple) else () if end is None else (int(end),)
    return Sampling(stop=stop, seed=seed, **given)


def _told(config: Any) -> dict[str, Any]:
    """What a configuration of generation says beyond transformers' defaults."""
    return {} if config is None else {name: value for name, value in config.to_diff_dict().items() if name[0] != "_"}


def _prompts(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """The tokens of every text without its padding."""
    if attention_mask is None:
        return [list(map(int, row)) for row in input_ids.tolist()]
    if (attention_mask.diff(dim=1) < 0).any():
        raise UsageError("texts are padded behind; set the tokenizer's padding_side to 'left'")
    return [[int(token) for token, real in zip(row, mask, strict=True) if real]
            for row, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True)]


AutoModelForSequenceClassification.register(SparsecConfig, SparsecModelForSequenceClassification)
AutoModelForCausalLM.register(SparsecConfig, SparsecModelForCausalLM)
