"""langwright chat: talk with a model."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from langwright.adaptation.folder import adapted, tokenizer_folder
from langwright.base.console import print_json, say
from langwright.base.errors import UserError
from langwright.base.hub import model_folder
from langwright.commands.evaluate import check_vocabulary
from langwright.inference.conversation import Conversation
from langwright.inference.sampling import Sampling
from langwright.models.folder import load_language_model
from langwright.models.surgery.quantise import Kind
from langwright.planning.machine import choose_device, choose_dtype
from langwright.text.chat_template import own_template, set_up_chat
from langwright.text.tokenizer import load_tokenizer
from langwright.training.checkpoints import decided_dtype

HELP = "/reset forgets what was said, /system TEXT sets the system message, /exit leaves; Ctrl-C stops an answer"


def chat(
    model: Path,
    system: str | None = None,
    template: str | None = None,
    max_new_tokens: int | None = None,
    adapter: Path | None = None,
    bits: Kind | None = None,
    sampling: Sampling = Sampling(),
    ignore_field: tuple[str, ...] = (),
    dtype: Literal["auto", "float32", "bfloat16"] = "float32",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Talk with a model, one line a turn; answers appear as they are written.

    model: a model folder whose tokenizer has a chat template, as finetune --task chat leaves it.
    system: the system message, before the conversation.
    template: another chat template: chatml, zephyr, alpaca, llama2, llama3, or a file.
    max_new_tokens: the most tokens of an answer; the history is cut so that they fit the context; 128 unless given.
    adapter: an adapter folder to put on the model, as finetune leaves it, with its template and its stop.
    bits: quantise the linear layers to int8, int4, nf4 or fp4 while loading; a compressed folder needs no flag.
    ignore_field: a field of config.json to pass over although it is not understood.
    dtype: what to compute in; auto is the faster for large products on this machine.
    device: cpu, cuda, mps, or auto for the best at hand.
    json: print each turn as one JSON object.
    """
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {max_new_tokens}: must be at least 1")
    model, where = model_folder(model), choose_device(device)
    loaded = adapted(
        load_language_model(model, where, choose_dtype(decided_dtype(model, dtype), where), ignore_field, bits),
        adapter,
        model,
    )
    home = tokenizer_folder(model, adapter)
    tokenizer = load_tokenizer(home, base=model)
    check_vocabulary(loaded, tokenizer)
    own = own_template(tokenizer, str(home))
    if template is not None:
        setup = set_up_chat(tokenizer, template, may_grow=False, where=str(home))
        tokenizer, own = setup.tokenizer, setup.template
    if own is None:
        raise UserError(
            f"{model}: has no chat template, so it was not taught to talk; langwright finetune {model} DATA OUT "
            "--task chat does, and --template NAME tries one without"
        )
    if not tokenizer.ends:
        raise UserError(
            f"{home}: no token is named that ends an answer, neither in generation_config.json nor as eos_token"
        )
    conversation = Conversation(loaded, tokenizer, own, system, max_new_tokens)
    _talk(conversation, sampling, json)


def _talk(conversation: Conversation, sampling: Sampling, json: bool) -> None:
    typed = sys.stdin.isatty()
    if typed:
        say(HELP)
    for line in _typed_lines() if typed else _lines():
        if line.startswith("/"):
            if not _obey(conversation, line):
                return
        elif line.strip():
            try:
                _answer(conversation, line, sampling, json)
            except UserError as error:
                if not typed:
                    raise
                say(str(error))


def _answer(conversation: Conversation, text: str, sampling: Sampling, json: bool) -> None:
    def show(piece: str) -> None:
        if not json:
            print(piece, end="", flush=True)

    try:
        done, forgotten = conversation.ask(text, sampling, show)
    except KeyboardInterrupt:
        print(flush=True)
        say("stopped; what was written so far stays in the conversation")
        return
    if json:
        answer = {"prompt": text, "text": done.text, "tokens": done.ids, "reason": done.reason, "forgotten": forgotten}
        print_json(answer)
        sys.stdout.flush()
    else:
        print(flush=True)
    if forgotten:
        say(f"the context is full: the {forgotten} oldest messages are forgotten")
    if done.reason == "length":
        say(f"the answer was cut off after {len(done.ids)} tokens; --max-new-tokens gives more")


def _obey(conversation: Conversation, line: str) -> bool:
    """Follow a command; false when it ends the conversation."""
    word, _, rest = line.strip().partition(" ")
    match word:
        case "/exit" | "/quit":
            return False
        case "/reset":
            conversation.reset()
            say("forgotten")
        case "/system":
            conversation.system = rest or None
            say("system message set" if rest else "no system message any more")
        case _:
            say(f"{word} is no command; {HELP}")
    return True


def _typed_lines() -> Iterator[str]:
    """What a person types, with a prompt and a history of lines; Ctrl-D ends it."""
    import readline  # noqa: F401 (gives input() its line editing)

    while True:
        try:
            yield input("> ")
        except EOFError:
            print(flush=True)
            return
        except KeyboardInterrupt:
            print(flush=True)
            say(HELP)


def _lines() -> Iterator[str]:
    """The lines of standard input."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"standard input, line {number}: not UTF-8 text: bad byte {error.start + 1}") from None
