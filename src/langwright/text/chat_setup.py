"""A tokenizer made ready to chat: a template, the special tokens it needs, a stop, and padding that is not the stop."""

from dataclasses import dataclass, replace
from typing import final

from langwright.base.errors import UserError
from langwright.text.chat_template import TEMPLATES, ChatTemplate, choose_source, own_template, stop_token, template_for
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
    own = tokenizer.chat_template is not None
    chosen = name or ("its own" if own else "chatml" if _knows(tokenizer, "chatml") else "zephyr")
    missing = () if chosen == "its own" else _missing(tokenizer, chosen)
    if missing and not may_grow:
        raise UserError(
            f"--template {chosen}: needs the special tokens {', '.join(missing)}, which {where} lacks "
            "and this method of tuning would not train; zephyr and alpaca need none, and --method full adds them"
        )
    if chosen == "its own":
        given = own_template(tokenizer, where)
        assert given is not None
        source = given.source
    else:
        source = choose_source(chosen)
        where = f"--template {chosen}"
    grown = tokenizer.extended(missing, tokenizer.special_tokens, source)
    stop = stop_token(template_for(source, grown, where), grown.specials)
    eos = tokenizer.special_tokens.eos if "eos_token" in source and tokenizer.special_tokens.eos else stop
    pad = tokenizer.special_tokens.pad
    if pad is None or pad in (eos, stop):
        pad = PAD if may_grow or PAD in grown.specials else None
        missing += (PAD,) if pad and pad not in grown.specials else ()
    special = replace(tokenizer.special_tokens, eos=eos, pad=pad)
    names = [token for token in (stop, eos, tokenizer.special_tokens.eos) if token is not None]
    ends = [grown.encode_marked(CONTROL + token)[0][0] for token in names]
    ready = tokenizer.extended(missing, special, source, ends)
    return ChatSetup(ready, template_for(source, ready, where), chosen, missing)


def _missing(tokenizer: Tokenizer, name: str) -> tuple[str, ...]:
    return tuple(token for token in TEMPLATES.get(name, ()) if token not in tokenizer.specials)


def _knows(tokenizer: Tokenizer, name: str) -> bool:
    return not _missing(tokenizer, name)
