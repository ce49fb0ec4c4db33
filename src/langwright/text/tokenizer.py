"""One tokenizer for every vocabulary: text to ids, ids to text, saved as a folder that `transformers` opens too."""

import codecs
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, final

import tokenizers
from tokenizers import AddedToken, Regex, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

from langwright.base.errors import UserError
from langwright.base.files import write_atomic, write_json
from langwright.text.special_tokens import SpecialTokens
from langwright.text.token_bytes import BYTE_TOKEN, Spelling, read_spelling

PIECE_CHARACTERS = 1 << 14
CONTROL = "\ufdd0"
"""Before the name of a special token, says that the token is meant; a noncharacter of Unicode."""

PLAIN_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
_CUT = re.compile(r"(?<=\S)(?=[ \n])")


class Part(NamedTuple):
    """A frame of a pair of texts whose second one may go on in another frame.

    Args:
        ids: the ids, special tokens included.
        types: their types.
        places: of each token of the second text its (start, end) in characters, without the blanks around it; None for
            a token of blanks, and for the others.
    """

    ids: list[int]
    types: list[int]
    places: list[tuple[int, int] | None]


@final
class Tokenizer:
    """Text to token ids and back.

    Plain text stays text: `<|endoftext|>` inside a string is never turned into the special token; special tokens
    are placed by their ids (`bos_id`, `eos_id`, `pad_id`, `unknown_id`, `cls_id`, `sep_id`, `mask_id`; None where the
    tokenizer has none), or by `frame`. `prefix` says what stands before a text, `ends` what ends a generated one,
    `specials` are the special tokens as text in the order of their ids, and `config` is what else
    `tokenizer_config.json` says.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: SpecialTokens,
        config: Mapping[str, Any] = PLAIN_CONFIG,
        where: str = "tokenizer",
        ends: Sequence[int] = (),
    ) -> None:
        """Wrap a `tokenizers.Tokenizer`, which this object then owns.

        Args:
            backend: the tokenizer; its post-processor says what begins a text.
            special: the special tokens.
            config: further entries of `tokenizer_config.json`, kept as they are. Where `add_bos_token` is true and the
                backend has no post-processor, it gets one that puts bos before a text.
            where: the folder or file it came from, for errors.
            ends: the ids that end a generated text; eos unless given.
        """
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        ids: list[Any] = [token and backend.token_to_id(token) for token in vars(special).values()]
        if missing := [token for token in special.config().values() if backend.token_to_id(token) is None]:
            raise UserError(f'{where}: "{missing[0]}" is named as a special token but is not in the vocabulary')
        self.bos_id, self.eos_id, self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = ids
        if config.get("add_bos_token") and self.bos_id is not None and backend.post_processor is None:
            backend.post_processor = _bos_first(str(special.bos), self.bos_id)
        added = sorted(backend.get_added_tokens_decoder().items())
        self._special = {id: token.content for id, token in added if token.special}
        self.specials, self.special_ids = tuple(self._special.values()), frozenset(self._special)
        if isinstance(backend.model, Unigram):
            _part_names(backend, self.specials)
        self._backend = backend
        written = {"add_bos_token", *(f"{kind}_token" for kind in vars(special))}
        self.config = {key: value for key, value in config.items() if key not in written}
        self._layout = json.loads(backend.to_str())
        self.special_tokens = special
        self.ends = tuple(dict.fromkeys(ends)) or (() if self.eos_id is None else (self.eos_id,))
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos and eos. Long texts are worked on by all cores."""
        return [i for piece in self.encode_batch(list(self.pieces(text))) for i in piece]

    def encode_named(self, text: str) -> list[int]:
        """The ids of a text in which the names of special tokens mean those tokens, without bos and eos."""
        _refuse_surrogates(text)
        self._backend.encode_special_tokens = False
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        self._backend.encode_special_tokens = True
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, worked on by all cores at once; each text is taken whole.

        Raises UserError for half a surrogate pair, the one thing a `str` can hold that is not text.
        """
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            for text in texts:
                _refuse_surrogates(text)
            raise
        return [encoding.ids for encoding in encodings]

    def frame(
        self, text: str, second: str | None = None, *, named: bool = False, limit: int | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids of a text, or of a pair, between the special tokens that encoders were trained with; and their types.

        Args:
            text: the text.
            second: the second one of a pair.
            named: the names of special tokens in the text mean those tokens, as in "The capital of France is [MASK]."
            limit: the most ids; the end of the longer text is cut off where there are more.
        """
        for part in (text, second or ""):
            _refuse_surrogates(part)
        self._backend.encode_special_tokens = not named
        encoding = self._backend.encode(text, second, add_special_tokens=True)
        if limit is not None and len(encoding.ids) > limit:
            self._backend.enable_truncation(limit)
            encoding = self._backend.encode(text, second, add_special_tokens=True)
            self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        return encoding.ids, encoding.type_ids

    def frame_words(self, words: Sequence[str], *, limit: int | None = None) -> tuple[list[int], list[int | None]]:
        """The ids of a sentence that is cut into words, between the special tokens of `frame`.

        Each word is taken by itself, as `transformers` takes it with `is_split_into_words`. A byte-level tokenizer,
        whose tokens hold the blank before a word, is given one before each, as with `add_prefix_space`.

        Args:
            words: the words, without blanks around them.
            limit: the most ids; what is beyond is cut off.

        Returns:
            The ids, and of each the number of its word, or None for a special token.
        """
        for word in words:
            _refuse_surrogates(word)
        pre = self._layout["pre_tokenizer"] or {"type": None}
        blank = " " if any(step["type"] == "ByteLevel" for step in pre.get("pretokenizers", [pre])) else ""
        if limit is not None:
            self._backend.enable_truncation(limit)
        encoding = self._backend.encode([blank + word for word in words], is_pretokenized=True)
        self._backend.no_truncation()
        return encoding.ids, encoding.word_ids

    def frame_parts(self, first: str, second: str, limit: int) -> list["Part"]:
        """A pair of texts in frames of at most `limit` ids: the first text, and a part of the second.

        Each part begins with the second half of the one before it. Of a first text that fills more than half of a frame
        the end is cut off.

        Raises:
            UserError: A frame has no room for both.
        """
        for text in (first, second):
            _refuse_surrogates(text)
        backend = self._backend
        free = limit - backend.num_special_tokens_to_add(is_pair=True)
        if free < 4:
            raise UserError(f"a context of {limit} tokens has no room for two texts; give a longer --context")
        head = backend.encode(first, add_special_tokens=False)
        if len(head.ids) > free // 2:
            first = first[: head.offsets[free // 2][0]]
            head = backend.encode(first, add_special_tokens=False)
        backend.enable_truncation(limit, stride=(free - len(head.ids)) // 2, strategy="only_second")
        framed = backend.encode(first, second)
        backend.no_truncation()
        return [
            Part(
                part.ids,
                part.type_ids,
                [
                    _without_blanks(second, *at) if side == 1 else None
                    for at, side in zip(part.offsets, part.sequence_ids, strict=True)
                ],
            )
            for part in (framed, *framed.overflowing)
        ]

    def encode_marked(self, text: str, *, inside: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text in which `CONTROL` and the name of a special token mean that token; a name alone is text.

        No special token is added before or after the text.

        Args:
            text: what a chat template writes.
            inside: the text goes on from another, so that nothing stands before its first word: neither SentencePiece's
                ▁ nor a space. Behind a special token that may be, as it is in the whole of both.

        Returns:
            The ids, and where each stands: (start, end) in characters, blanks included, which the post-processors of
            RoBERTa and GPT-NeoX leave out.
        """
        _refuse_surrogates(text)
        ids, offsets = self._encode_marked(self._marked, text)
        if not inside:
            return ids, offsets
        added = self._backend.get_added_tokens_decoder()  # they cut a text before it is anything else
        first = next((i for i, id in enumerate(ids) if id in added), len(ids))
        head = text[: offsets[first][0] if first < len(ids) else None]
        head_ids, head_offsets = self._encode_marked(self._marked_inside, head)
        return head_ids + ids[first:], head_offsets + offsets[first:]

    def pieces(self, text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
        """Cut a text into pieces of about `size` characters whose ids, joined, are the ids of the whole text.

        This bounds memory and lets all cores share one long document. A tokenizer that splits words by GPT-2's
        rule never has a token that holds a visible character and the space or newline after it, so a cut between
        them is exact; for tokenizers where such a cut could change the ids, the text stays whole.
        """
        start = 0
        while self._can_cut and len(text) - start > size and (cut := _CUT.search(text, start + size)):
            yield text[start : cut.start()]
            start = cut.start()
        yield text[start:]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of ids. Bytes that are not UTF-8 become U+FFFD; special tokens show their names unless skipped."""
        special = {} if skip_special else self._special
        data = b"".join(special[i].encode() if i in special else self.token_bytes(i) for i in map(int, ids))
        text = data.decode("utf-8", "replace")
        text = text.removesuffix(" ") if self.spelling.ends_with_space else text
        return text.removeprefix(" ") if self.spelling.starts_with_space else text

    def token(self, id: int) -> str:
        """One token in readable form: its text, `\\xe2` for bytes that are no character alone, a special's name."""
        return self._special.get(id) or self.token_bytes(id).decode("utf-8", "backslashreplace")

    def token_bytes(self, id: int) -> bytes:
        """The exact bytes that a token adds to a text; none for a special token. UserError for an unknown id."""
        if not 0 <= id < self.vocab_size:
            raise UserError(f"token {id} is outside the vocabulary: ids go from 0 to {self.vocab_size - 1}")
        return self.spelling.table[id]

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids: equal fingerprints, equal ids, on every machine."""
        return self._fingerprint

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; `transformers.AutoTokenizer` opens them, ids equal.

        Without any token there is nothing to write.
        """
        if not self.vocab_size:
            return
        folder = Path(folder)
        write_atomic(folder / "tokenizer.json", self._backend.to_str(pretty=True))
        begins = {} if self.bos_id is None else {"add_bos_token": self.bos_id in self.prefix}
        write_json(folder / "tokenizer_config.json", self.config | begins | self.special_tokens.config())

    def generation(self) -> dict[str, int | list[int]]:
        """What `generation_config.json` says of the ends of a text."""
        return {"eos_token_id": list(self.ends) if len(self.ends) > 1 else self.ends[0]} if self.ends else {}

    def extended(
        self,
        added: Sequence[str],
        special: SpecialTokens,
        chat_template: str | None = None,
        ends: Sequence[int] = (),
        gaps: Collection[str] = (),
    ) -> "Tokenizer":
        """The same tokenizer with more tokens, whose ids follow the others.

        Args:
            added: the tokens.
            special: the special tokens.
            chat_template: a new one; its own unless given.
            ends: see `Tokenizer`.
            gaps: those that stand for words, and so for the blank before them too, as RoBERTa's mask does.
        """
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.add_special_tokens([AddedToken(t, lstrip=t in gaps, normalized=False, special=True) for t in added])
        config = {**self.config, **({} if chat_template is None else {"chat_template": chat_template})}
        config.pop("added_tokens_decoder", None)  # tokenizer.json says the same, and more now
        return Tokenizer(backend, special, config, ends=ends)

    def framed(self, first: Sequence[int], last: Sequence[int]) -> "Tokenizer":
        """The same tokenizer, which puts these special tokens before a text and behind it; see `frame`."""
        if self.frame("a")[0] == [*first, *self.encode("a"), *last]:
            return self
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        before, after = ([self._special[id] for id in ids] for ids in (first, last))
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, "$B:1", *(f"{token}:1" for token in after)],
            special_tokens=[(self._special[id], id) for id in {*first, *last}],
        )
        return Tokenizer(backend, self.special_tokens, self.config, ends=self.ends)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The ids before every text, as `transformers` puts them for the same folder: bos, or nothing."""
        framed = self._backend.encode("a", add_special_tokens=True)
        added = takewhile(lambda one: one[1], zip(framed.ids, framed.special_tokens_mask, strict=True))
        return tuple(id for id, _ in added)

    @property
    def opening(self) -> tuple[int, ...]:
        """The ids before a document: `prefix`, or what parts the documents of models whose bos is their eos (GPT-2)."""
        return self.prefix or (() if self.bos_id is None or self.bos_id != self.eos_id else (self.bos_id,))

    @property
    def layout(self) -> Mapping[str, Any]:
        """What `tokenizer.json` says."""
        return self._layout

    @cached_property
    def spelling(self) -> Spelling:
        """The bytes of all tokens, and the spaces that they have at the bounds of a text."""
        return read_spelling(self._backend)

    @cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        return self._with_marked(self._layout)

    @cached_property
    def _marked_inside(self) -> tokenizers.Tokenizer:
        bare = {part: _without_prefix_space(self._layout[part]) for part in ("normalizer", "pre_tokenizer")}
        return self._with_marked(self._layout | bare)

    def _with_marked(self, layout: Mapping[str, Any]) -> tokenizers.Tokenizer:
        """A tokenizer whose special tokens are text, with one more token for the marked name of each."""
        backend = tokenizers.Tokenizer.from_str(json.dumps({**layout, "post_processor": None}))
        backend.encode_special_tokens = True
        for token in backend.get_added_tokens_decoder().values():
            if token.special:
                flags = {flag: getattr(token, flag) for flag in ("single_word", "lstrip", "rstrip")}
                backend.add_tokens([AddedToken(CONTROL + token.content, normalized=False, **flags)])
        return backend

    def _encode_marked(self, backend: tokenizers.Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = backend.encode(text, add_special_tokens=False)
        meant = {backend.token_to_id(CONTROL + name): id for id, name in self._special.items()}
        return [meant.get(id, id) for id in encoding.ids], encoding.offsets

    @cached_property
    def _fingerprint(self) -> str:
        # Folders of version 1 have no post-processor and mean bos: what they mean today has the fingerprint of then.
        content: dict[str, Any] = {"tokenizer": self._layout, "roles": self.special_tokens.config()}
        if self.bos_id is not None:
            ours = json.loads(_bos_first(str(self.special_tokens.bos), self.bos_id).__getstate__())
            if self._layout["post_processor"] == ours:
                content["tokenizer"] = {**self._layout, "post_processor": None}
        if self.opening != (() if self.bos_id is None else (self.bos_id,)):
            content["prefix"] = list(self.prefix)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def _can_cut(self) -> bool:
        if self._layout["normalizer"] is not None or any(not t["special"] for t in self._layout["added_tokens"]):
            return False
        match self._layout["pre_tokenizer"]:
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
                return True
            case None | {"type": "ByteLevel", "add_prefix_space": False}:
                return bool(self._layout["model"].get("merges") == [])
        return False


class StreamDecoder:
    """Text from ids that arrive one at a time: each character is given out as soon as its last byte is there.

    The pieces, joined, are what the ids add to the text of those before them, special tokens left out:
    `decode([*before, *ids])` without `decode(before)`.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        """Begin a text, or go on after the ids `before`."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.spelling.starts_with_space
        self._held = ""
        for id in before:
            self.feed(id)

    def feed(self, id: int) -> str:
        """The text that this id completes, often empty in the middle of a character."""
        return self._trim(self._decoder.decode(self._tokenizer.token_bytes(int(id))))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._trim(self._decoder.decode(b"", final=True))

    def _trim(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix(" ")
        if self._tokenizer.spelling.ends_with_space and text:  # there is one only if another word follows
            text = self._held + text
            self._held = " " if text.endswith(" ") else ""
            text = text.removesuffix(" ")
        return text


def no_tokenizer() -> Tokenizer:
    """That of a model which reads no texts: it has no token."""
    return Tokenizer(tokenizers.Tokenizer(BPE()), SpecialTokens())


def first_letters(names: Iterable[str]) -> str:
    """A regular expression for the first character of each of these names in a text, also where they overlap."""
    return "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names)


def _part_names(backend: tokenizers.Tokenizer, special: Collection[str]) -> None:
    """Cut the names of special tokens and bytes in texts apart: a unigram model has them as pieces, no text means them.

    The rule lies in the tokenizer's file, so that other libraries have it too.
    """
    model = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    names = [name for name, _ in model if len(name) > 1 and (name in special or BYTE_TOKEN.fullmatch(name))]
    before, cut = backend.pre_tokenizer, pre_tokenizers.Split(Regex(first_letters(names)), "merged_with_previous")
    if names and not (before and cut.__getstate__() in before.__getstate__()):
        backend.pre_tokenizer = pre_tokenizers.Sequence([before, cut]) if before else cut


def _without_prefix_space(step: Any) -> Any:
    """A step of a `tokenizer.json` that puts nothing before a text: no ▁ of SentencePiece, and no space.

    Left is what a tokenizer puts before every word, having cut the blanks between them away (T5).
    """
    match step:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return {**step, "prepend_scheme": "never"}
        case {"type": "ByteLevel"}:
            return {**step, "add_prefix_space": False}
        case {"type": "Sequence", "normalizers": steps}:
            return {**step, "normalizers": [left for left in map(_without_prefix_space, steps) if left is not None]}
        case {"type": "Sequence", "pretokenizers": [first, *rest]}:  # those after the first work on words
            return {**step, "pretokenizers": [_without_prefix_space(first), *rest]}
    return step


def _bos_first(bos: str, id: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:0", special_tokens=[(bos, id)])


def _refuse_surrogates(text: str) -> None:
    if found := re.search("[\ud800-\udfff]", text):
        at = found.start()
        raise UserError(f"the text holds half a surrogate pair at character {at}, which is not text; remove it")


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The bounds of a part of a text without the blanks around it; None of blanks alone."""
    part = text[start:end]
    return (end - len(part.lstrip()), start + len(part.rstrip())) if part.strip() else None
