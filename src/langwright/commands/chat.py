"""langwright chat: talk with a model."""

import sys
from collections.abc import Iterator
from pathlib import Path

from langwright.adaptation.folder import tokenizer_folder
from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import standard_input
from langwright.inference.generate import tell_errors
from langwright.inference.sampling import Sampling
from langwright.pipelines.conversation import Conversation
from langwright.pipelines.opening import Opening
from langwright.text.chat_template import own_template, set_up_chat

HELP = "/reset forgets what was said, /system TEXT sets the system message, /exit leaves; Ctrl-C stops an answer"


def chat(
    model: Path,
    system: str | None = None,
    template: str | None = None,
    max_new_tokens: int | None = None,
    sampling: Sampling = Sampling(),
    opening: Opening = Opening(),
    json: bool = False,
) -> None:
    """Talk with a model, one line a turn; answers appear as they are written.

    Args:
        model: a model folder whose tokenizer has a chat template, as finetune --task chat leaves it.
        system: the system message, before the conversation.
        template: another chat template: chatml, zephyr, alpaca, llama2, llama3, or a file.
        max_new_tokens: the most tokens of an answer; the history is cut so that they fit the context; 128 unless given.
        sampling: how tokens are drawn.
        opening: how the model is opened.
        json: print each turn as one JSON object.
    """
    check_flag("max_new_tokens", max_new_tokens, max_new_tokens is None or max_new_tokens >= 1, "at least 1")
    loaded, tokenizer = opening.open(model, generates=True, one_stack=True)
    home = str(tokenizer_folder(model, opening.adapter))
    own = own_template(tokenizer, home)
    if template is not None:
        own = set_up_chat(tokenizer, template, may_grow=False, where=home)
    if own is None:
        raise UserError(f"{model}: has no chat template; finetune --task chat teaches one, --template NAME tries one")
    if not own.tokenizer.ends:
        raise UserError(f"{home}: names no token that ends an answer; generation_config.json needs an eos_token_id")
    conversation, typed = Conversation(loaded, own, system, max_new_tokens), sys.stdin.isatty()
    if typed:
        say(HELP)
    for line in _typed_lines() if typed else (line.rstrip("\r\n") for line in standard_input()):
        try:
            if line.startswith("/"):
                if not _obey(conversation, line):
                    return
            elif line.strip():
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
        print_json({"prompt": text, **done.row(), "forgotten": forgotten})
    print(end="" if json else "\n", flush=True)
    if forgotten:
        say(f"the context is full: the {forgotten} oldest messages are forgotten")
    tell_errors([done])
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
