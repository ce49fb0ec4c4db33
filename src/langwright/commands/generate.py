"""langwright generate: let a model write."""

from pathlib import Path

from langwright.base.console import print_json
from langwright.base.errors import UserError
from langwright.base.files import standard_input
from langwright.inference.generate import complete
from langwright.inference.opening import Opening
from langwright.inference.sampling import Sampling, Search
from langwright.inference.sinks import Streaming


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
    opening: Opening = Opening(),
    json: bool = False,
) -> None:
    """Continue a prompt, or let an encoder-decoder answer it; the text appears as it is written.

    Args:
        model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        prompt: what to continue, or what the encoder reads; "-" is standard input; several are written side by side.
        max_new_tokens: the most tokens to write; what the context has room for, at most 256, unless given.
        sampling: how tokens are drawn.
        search: beams, and rules for what may come.
        stop: a string that ends the text; it is left out.
        cache: keep keys and values between tokens; without it every token is computed from the beginning, for
            comparison.
        window: remember this many recent tokens and the first few, so that a text may go on past the model's context.
        sinks: how many of the first tokens are remembered beside the window; 4 unless given.
        opening: how the model is opened.
        json: print the result as JSON.
    """
    if sinks is not None and window is None:
        raise UserError("--sinks goes with --window, the number of the latest tokens that are remembered")
    prompts = ["".join(standard_input()) if text == "-" else text for text in prompt]
    loaded, tokenizer = opening.open(model, generates=True)
    streams = len(prompts) == 1 and not json
    echoes = prompts if loaded.continues else [""] * len(prompts)
    shown: list[str] = []

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
