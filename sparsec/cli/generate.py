"""`sparsec generate`: text from a compiled decoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsec.cli import options

if TYPE_CHECKING:
    from sparsec.generation.text import Text


def command(
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled decoder with caches.")],
    prompts: Annotated[list[str], typer.Option(
        "--prompt", help="A text to continue; may be repeated. Numbers with commas between them are tokens.")],
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to generate, at most; else 64.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Draw from so many tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this probability.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 against repetitions.")] = None,
    stop: Annotated[list[int] | None, typer.Option(help="A token that ends the text; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    tokenizer: Annotated[Path | None, typer.Option(
        exists=True, file_okay=False, help="The folder of tokenizer.json and generation_config.json; the artifact's if "
        "not given.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to use; as compiled if not given.")] = None,
    json: options.JsonFile = None,
) -> None:
    """Continue texts with a compiled decoder, and tell how fast."""
    from sparsec.generation.decoder import check_decoder
    from sparsec.generation.loop import generate
    from sparsec.generation.sampling import read_config
    from sparsec.generation.text import Text
    from sparsec.runtime.session import InferenceSession

    folder = tokenizer or artifact.parent
    sampling = read_config(folder, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                           repetition_penalty=repetition_penalty, stop=tuple(stop) if stop else None, seed=seed)
    session = InferenceSession(str(artifact), threads)
    check_decoder(session)  # before a tokenizer is asked for
    numbers = [_numbers(prompt) for prompt in prompts]
    text = Text(folder) if None in numbers else None
    tokens = [text.tokens(prompt) if text is not None and number is None else number or []
              for prompt, number in zip(prompts, numbers, strict=True)]
    found = generate(session, tokens, sampling, on_token=_printed(text) if len(tokens) == 1 else None)
    if len(tokens) > 1:
        for each in found.tokens:
            print(_shown(text, each))
    else:
        print()
    print(f"\n{sum(map(len, found.tokens))} tokens, the first after {1e3 * found.first_s:.0f} ms, then "
          f"{found.tokens_per_s:.1f} a second")
    options.write_json(json, {"tokens": found.tokens, "first_s": found.first_s, "tokens_per_s": found.tokens_per_s})


def _numbers(prompt: str) -> list[int] | None:
    """The tokens that a prompt lists, None where it is text."""
    return [int(part) for part in prompt.split(",")] if re.fullmatch(r"\d+(,\d+)*", prompt) else None


def _shown(text: Text | None, tokens: list[int]) -> str:
    return ",".join(map(str, tokens)) if text is None else text.words(tokens)


def _printed(text: Text | None) -> Any:
    """What prints a text as its tokens come: as much of it as no later token changes."""
    tokens: list[int] = []
    printed = ""

    def tell(_number: int, token: int) -> None:
        nonlocal printed
        tokens.append(token)
        whole = _shown(text, tokens)
        if whole.startswith(printed) and not whole.endswith("\N{REPLACEMENT CHARACTER}"):
            print(whole[len(printed):], end="", flush=True)
            printed = whole

    return tell
