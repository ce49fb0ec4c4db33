"""Text made ready for training: a corpus, its tokenizer, and the tokens of both sides of the split."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.console import format_amount, say
from langwright.base.errors import UserError
from langwright.base.files import atomic_folder, cache_folder
from langwright.base.hub import PREFIX
from langwright.corpora.document import Corpus
from langwright.corpora.opening import open_corpus
from langwright.corpora.sampling import sample_texts
from langwright.corpora.splits import parse_split, settle_split, split_documents
from langwright.data.batches import CausalBatches, evaluation_batches
from langwright.data.order import Layout
from langwright.data.prepare import prepare
from langwright.data.shards import Tokens
from langwright.data.supply import Supply
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.text.training import characters, raw_bytes, train_bpe

SAMPLE_BYTES = 64 << 20
"""Text that a new BPE tokenizer sees at most."""


@dataclass(frozen=True)
class Texts:
    """A corpus as tokens. record: what identifies it, with the words that open it again (spec, split, field)."""

    tokenizer: Tokenizer
    training: Tokens
    validation: Tokens
    record: dict[str, Any]

    def supply(self, layout: Layout, crossing: bool = False) -> Supply:
        """Windows of the training side, and those of the other. See `CausalBatches`."""
        return Supply(
            self.tokenizer,
            CausalBatches(self.training, layout, crossing=crossing),
            lambda limit: evaluation_batches(self.validation, layout.context, layout.batch_size, limit),
            len(self.validation),
            self.validation.text_bytes,
            self.record,
        )


def read_texts(
    spec: str, split: str, field: str, tokenizer: Tokenizer | None, kind: str = "bpe", vocabulary: int = 4096
) -> Texts:
    """Open a corpus, split it, tokenise it.

    tokenizer: one that exists; without it a new one of `kind` is made from the training side: "bpe", "characters",
    "bytes", or a folder that holds one.
    """
    corpus = open_corpus(spec, field=field)
    split = str(settle_split(corpus, split))
    if tokenizer is None:
        tokenizer = _kept_tokenizer(corpus, split, kind, vocabulary)
    training, validation = prepare(corpus, tokenizer, split, cache=cache_folder() / "tokens")
    record = {**corpus.record(), "spec": spec, "split": split, "field": field}
    say(
        f"{corpus.name}: {record['documents']:,} documents, {format_amount(record['bytes'], 'bytes')}; "
        f"{len(training):,} tokens to train on, {len(validation):,} held out; vocabulary {tokenizer.vocab_size:,}"
    )
    return Texts(tokenizer, training, validation, record)


def _kept_tokenizer(corpus: Corpus, split: str, kind: str, vocabulary: int) -> Tokenizer:
    """`make_tokenizer`, with what was learnt from a corpus kept for the next run."""
    if kind != "bpe":
        return make_tokenizer(corpus, split, kind, vocabulary)
    content = f"{corpus.record()['hash']} {parse_split(split)} {vocabulary}"
    folder = cache_folder() / "tokenizers" / hashlib.sha256(content.encode()).hexdigest()[:32]
    if not folder.is_dir():
        made = make_tokenizer(corpus, split, kind, vocabulary)
        with atomic_folder(folder) as new:
            made.save(new)
    return load_tokenizer(folder)


def make_tokenizer(corpus: Corpus, split: str, kind: str, vocabulary: int) -> Tokenizer:
    """A tokenizer for a corpus: learnt from its training side, or read from the folder `kind`."""
    if kind == "bytes":
        return raw_bytes()
    if kind in ("bpe", "characters"):
        training, held_out = split_documents(corpus, split)
        if kind == "bpe":
            return train_bpe(sample_texts(training, SAMPLE_BYTES), vocabulary)
        return characters(document.text for part in (training, held_out) for document in part)
    if not kind.startswith(PREFIX) and not Path(kind).is_dir():
        raise UserError(f"--tokenizer {kind}: neither bpe, characters or bytes nor a folder that holds a tokenizer")
    return load_tokenizer(kind)
