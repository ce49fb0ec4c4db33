"""langwright generate: let a model write."""

from json import dumps
from pathlib import Path

from langwright.base.console import print_json, warn
from langwright.base.errors import UserError, check_flag
from langwright.base.files import read_text, standard_input
from langwright.inference.constraints import Constraint, Form
from langwright.inference.generate import complete, tell_errors
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling, Search
from langwright.inference.sinks import Streaming
from langwright.pipelines.opening import Opening
from langwright.pipelines.prompt_file import complete_file


def generate(
    model: Path,
    prompt: tuple[str, ...] = ("",),
    max_new_tokens: int | None = None,
    sampling: Sampling = Sampling(),
    search: Search = Search(),
    stop: tuple[str, ...] = (),
    json_schema: Path | None = None,
    regex: str | None = None,
    choices: str | None = None,
    grammar: Path | None = None,
    lookup: bool = False,
    draft: Path | None = None,
    prompts: Path | None = None,
    out: Path | None = None,
    batch: int = 16,
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
        json_schema: a file that holds a JSON schema: the text is JSON that fits it, without free white space.
        regex: the text is matched by this regular expression, in the syntax of Rust's regex.
        choices: the text is one of these, separated by commas.
        grammar: a file that holds a grammar in Lark's syntax; the text is what it derives.
        lookup: guess what comes next from what followed the last time when the text went so; the text stays the same.
        draft: a smaller model with the same tokens, which guesses what comes next; the text stays the same.
        prompts: a file of prompts, rows with a field `prompt`; stopped anywhere, the same command goes on there.
        out: where their texts go, one JSON object a prompt.
        batch: how many texts are written side by side.
        window: remember this many recent tokens and the first few, so that a text may go on past the model's context.
        sinks: how many of the first tokens are remembered beside the window; 4 unless given.
        opening: how the model is opened.
        json: print the result as JSON.
    """
    if sinks is not None and window is None:
        raise UserError("--sinks goes with --window, the number of the latest tokens that are remembered")
    if (prompts is None) != (out is None):
        raise UserError("--prompts FILE, where prompts are read, and --out FILE, where texts are written, go together")
    check_flag("out", out, out is None or out.suffix == ".jsonl", "a name that ends in .jsonl")
    if prompts is not None and prompt != ("",):
        raise UserError("--prompt has no place beside --prompts, a file of them; leave one out")
    constraint = _constraint(json_schema, regex, choices, grammar)
    streaming = None if window is None else Streaming(window, 4 if sinks is None else sinks)
    texts = ["".join(standard_input()) if text == "-" else text for text in prompt]
    loaded, tokenizer = opening.open(model, generates=True)
    if (lookup or draft is not None) and search.beams > 1:
        raise UserError(f"--beams {search.beams}: a search guesses nothing; leave --lookup and --draft out")
    speculation = opening.speculation(lookup, draft, tokenizer, batch)
    if prompts is not None and out is not None:
        settings = {"model": str(model), "max_new_tokens": max_new_tokens, "stop": list(stop)}
        settings |= vars(sampling) | vars(search) | {"window": window, "sinks": sinks}
        settings |= {"constraint": None if constraint is None else [constraint.form, constraint.source]}
        settings |= {name: str(value) for name, value in vars(opening).items()}
        asked = Request("", sampling, max_new_tokens, stop, search=search, constraint=constraint)
        failed = complete_file(
            loaded, tokenizer, prompts, out, asked, settings,
            batch=batch, streaming=streaming, speculation=speculation,
        )  # fmt: skip
        if failed:
            warn(f'{failed:,} texts ended with an error; their rows in {out} say "error"')
        if json:
            print_json({"out": str(out), "errors": failed})
        return
    streams = len(texts) == 1 and not json
    echoes = texts if loaded.continues else [""] * len(texts)
    shown: list[str] = []

    def stream(row: int, text: str) -> None:
        print(text if shown else echoes[0] + text, end="", flush=True)
        shown.append(text)

    completions = complete(
        loaded,
        tokenizer,
        texts,
        sampling,
        max_new_tokens,
        stop,
        batch=batch,
        on_text=stream if streams else lambda row, text: None,
        streaming=streaming,
        search=search,
        constraint=constraint,
        speculation=speculation,
    )
    if json:
        for text, completion in zip(texts, completions, strict=True):
            print_json({"prompt": text, **completion.row()})
    elif streams:
        print("" if shown else echoes[0], flush=True)
    else:
        print("\n\n".join(text + c.text for text, c in zip(echoes, completions, strict=True)))
    tell_errors(completions)
    if constraint is not None and any(completion.reason == "length" for completion in completions):
        warn(f"--{constraint.flag}: a text reached its limit before it was complete; give --max-new-tokens more")


def _constraint(
    json_schema: Path | None, regex: str | None, choices: str | None, grammar: Path | None
) -> Constraint | None:
    """The one form that is asked for, if any."""
    asked: dict[Form, str | None] = {
        "json_schema": None if json_schema is None else read_text(json_schema, "a JSON schema"),
        "regex": regex,
        "choices": None if choices is None else dumps([text.strip() for text in choices.split(",")]),
        "grammar": None if grammar is None else read_text(grammar, "a grammar"),
    }
    forms = [Constraint(form, source) for form, source in asked.items() if source is not None]
    if len(forms) > 1:
        raise UserError(f"--{forms[0].flag} and --{forms[1].flag} exclude each other; give one form")
    return forms[0] if forms else None
