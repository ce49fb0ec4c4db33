"""langwright generate: let a model write."""

import sys
from pathlib import Path
from typing import Literal

from langwright.adaptation.folder import adapted, tokenizer_folder
from langwright.base.console import print_json
from langwright.base.errors import UserError
from langwright.base.hub import model_folder
from langwright.commands.evaluate import check_vocabulary
from langwright.inference.generate import complete
from langwright.inference.rules import Search
from langwright.inference.sampling import Sampling
from langwright.inference.sinks import Streaming
from langwright.models.folder import OpenedFolder
from langwright.models.surgery.quantise import Kind
from langwright.planning.machine import choose_device, choose_dtype
from langwright.text.tokenizer import load_tokenizer
from langwright.training.checkpoints import decided_dtype


def generate(
    model: Path,
    prompt: tuple[str, ...] = ("",),
    max_new_tokens: int | None = None,
    sampling: Sampling = Sampling(),
    search: Search = Search(),
    stop: tuple[str, ...] = (),
    cache: bool = True,
    window: int | None = None,
    sinks: int | None = None,
    adapter: Path | None = None,
    bits: Kind | None = None,
    ignore_field: tuple[str, ...] = (),
    dtype: Literal["auto", "float32", "bfloat16"] = "float32",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Continue a prompt, or let an encoder-decoder answer it; the text appears as it is written.

    model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
    prompt: what to continue, or what the encoder reads; "-" is standard input; several are written side by side.
    max_new_tokens: the most tokens to write; what the context has room for, at most 256, unless given.
    stop: a string that ends the text; it is left out.
    cache: keep keys and values between tokens; without it every token is computed from the beginning, for comparison.
    window: remember this many recent tokens and the first few, so that a text may go on past the model's context.
    sinks: how many of the first tokens are remembered beside the window; 4 unless given.
    adapter: an adapter folder to put on the model, as finetune leaves it.
    bits: quantise the linear layers to int8, int4, nf4 or fp4 while loading; a compressed folder needs no flag.
    ignore_field: a field of config.json to pass over although it is not understood.
    dtype: what to compute in; auto is the faster for large products on this machine.
    device: cpu, cuda, mps, or auto for the best at hand.
    json: print the result as JSON.
    """
    prompts = [_read(text) for text in prompt]
    if sinks is not None and window is None:
        raise UserError("--sinks goes with --window, the number of the latest tokens that are remembered")
    where, chosen = choose_device(device), decided_dtype(model_folder(model), dtype)
    opened = OpenedFolder(model, ignore_field).require(generates=True)
    loaded = adapted(opened.model(where, choose_dtype(chosen, where), bits=bits), adapter, model)
    tokenizer = load_tokenizer(tokenizer_folder(model, adapter), base=model)
    check_vocabulary(loaded, tokenizer)
    streams = len(prompts) == 1 and not json
    shown: list[str] = []
    echoes = prompts if loaded.continues else [""] * len(prompts)

    def stream(row: int, text: str) -> None:
        print(text if shown else echoes[0] + text, end="", flush=True)
        shown.append(text)

    completions = complete(
        loaded,
        tokenizer,
        prompts,
        sampling,
        max_new_tokens,
        stop,
        cache=cache,
        on_text=stream if streams else lambda row, text: None,
        streaming=None if window is None else Streaming(window, 4 if sinks is None else sinks),
        search=search,
    )
    if json:
        for text, completion in zip(prompts, completions, strict=True):
            print_json({"prompt": text, "text": completion.text, "tokens": completion.ids, "reason": completion.reason})
    elif streams:
        print("" if shown else echoes[0], flush=True)
    else:
        print("\n\n".join(text + c.text for text, c in zip(echoes, completions, strict=True)))


def _read(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text: bad byte at offset {error.start}") from None
