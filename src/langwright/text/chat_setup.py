"""A tokenizer made ready to chat: a template, the special tokens it needs, a stop, and padding that is not the stop."""

from dataclasses import dataclass, replace
from typing import final

from langwright.base.errors import UserError
from langwright.text.chat_template import TEMPLATES, ChatTemplate, own_template, template_for, template_source
from langwright.text.tokenizer import CONTROL, Tokenizer

PAD = "<|pad|>"


@final
@dataclass(frozen=True)
class ChatSetup:
    """A tokenizer that chats.

    tokenizer: its `ends` are the ids after which an answer is over, the template's own stop first.
    name: of the template, for people. added: special tokens that the vocabulary did not have.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    name: str
    added: tuple[str, ...]


def set_up_chat(tokenizer: Tokenizer, name: str | None, may_grow: bool, where: str) -> ChatSetup:
    """Choose a template and fit the tokenizer to it.

    name: one of `TEMPLATES`, or a file; without it the tokenizer's own template, else chatml where its special tokens
    are known, else zephyr, whose marks are plain text. may_grow: whether special tokens may be added, so that the
    model's tables grow. where: the folder, for errors.

    The stop becomes the tokenizer's eos unless the template itself writes eos. A pad that is the stop would teach a
    model never to stop: it is replaced by a new token where the vocabulary may grow, and given up elsewhere.
    Raises UserError for a template whose special tokens are missing and may not be added.
    """

    def missing(template: str) -> tuple[str, ...]:
        return tuple(token for token in TEMPLATES.get(template, ()) if token not in tokenizer.specials)

    own = None if name else own_template(tokenizer, where)
    chosen = name or ("its own" if own else "zephyr" if missing("chatml") else "chatml")
    added = missing(chosen)
    if added and not may_grow:
        raise UserError(
            f"--template {chosen}: needs the special tokens {', '.join(added)}, which {where} lacks "
            "and this method of tuning would not train; zephyr and alpaca need none, and --method full adds them"
        )
    source = own.source if own else template_source(chosen)
    where = where if own else f"--template {chosen}"
    special = tokenizer.special_tokens
    grown = tokenizer.extended(added, special, source)
    stop = template_for(source, grown, where).stop()
    eos = special.eos if "eos_token" in source and special.eos else stop
    pad = special.pad
    if pad in (None, eos, stop):
        pad = PAD if may_grow or PAD in grown.specials else None
        added += (PAD,) if pad and pad not in grown.specials else ()
    ends = [grown.encode_marked(CONTROL + token)[0][0] for token in (stop, eos, special.eos) if token is not None]
    ready = tokenizer.extended(added, replace(special, eos=eos, pad=pad), source, ends)
    return ChatSetup(ready, template_for(source, ready, where), chosen, added)
