"""Text made ready for training: a corpus, its tokenizer, and the tokens of both sides of the split."""

import hashlib
from pathlib import Path

from langwright.base.console import format_amount, say
from langwright.base.errors import UserError
from langwright.base.files import atomic_folder, cache_folder
from langwright.base.hub import PREFIX
from langwright.corpora.document import Corpus
from langwright.corpora.opening import open_corpus
from langwright.corpora.sampling import sample_texts
from langwright.corpora.splits import parse_split, settle_split, split_documents
from langwright.data.batches import Batches, evaluation_batches
from langwright.data.order import Layout
from langwright.data.prepare import prepare
from langwright.data.supply import Supply
from langwright.data.windows import Windows
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.text.training import characters, raw_bytes, train_bpe

SAMPLE_BYTES = 64 << 20
"""Text that a new BPE tokenizer sees at most."""


def text_supply(
    spec: str,
    split: str,
    field: str,
    layout: Layout,
    context: int,
    crossing: bool = False,
    tokenizer: Tokenizer | None = None,
    kind: str = "bpe",
    vocabulary: int = 4096,
) -> Supply:
    """A corpus opened, split and tokenised: windows of the training side, and those of the other.

    Args:
        spec: the corpus.
        split: what is held out.
        field: of files that have several, the one with the text.
        layout: of the batches.
        context: inputs a window.
        crossing: let training windows run over the bounds of documents.
        tokenizer: one that exists; else a new one is made from the training side.
        kind: of a new one: "bpe", "characters", "bytes", or a folder that holds one.
        vocabulary: the size of a new one.
    """
    corpus = open_corpus(spec, field=field)
    split = str(settle_split(corpus, split))
    tokenizer = tokenizer or make_tokenizer(corpus, split, kind, vocabulary)
    training, validation = prepare(corpus, tokenizer, split, cache=cache_folder() / "tokens")
    record = {**corpus.record(), "spec": spec, "split": split, "field": field}
    say(
        f"{corpus.name}: {record['documents']:,} documents, {format_amount(record['bytes'], 'bytes')}; "
        f"{len(training):,} tokens to train on, {len(validation):,} held out; vocabulary {tokenizer.vocab_size:,}"
    )
    return Supply(
        tokenizer,
        Batches(Windows(training, context, crossing), layout),
        lambda limit: evaluation_batches(Windows(validation, context, once=True), layout.batch_size, limit),
        len(validation),
        validation.text_bytes,
        record,
    )


def make_tokenizer(corpus: Corpus, split: str, kind: str, vocabulary: int) -> Tokenizer:
    """A tokenizer for a corpus: learnt from its training side and kept for the next run, or read from a folder."""
    if kind == "bytes":
        return raw_bytes()
    if kind == "characters":
        return characters(document.text for document in corpus.documents())
    if kind == "bpe":
        content = f"{corpus.record()['hash']} {parse_split(split)} {vocabulary}"
        folder = cache_folder() / "tokenizers" / hashlib.sha256(content.encode()).hexdigest()[:32]
        if not folder.is_dir():
            training, _ = split_documents(corpus, split)
            made = train_bpe(sample_texts(training, SAMPLE_BYTES), vocabulary)
            with atomic_folder(folder) as new:
                made.save(new)
        return load_tokenizer(folder)
    if not kind.startswith(PREFIX) and not Path(kind).is_dir():
        raise UserError(f"--tokenizer {kind}: neither bpe, characters or bytes nor a folder that holds a tokenizer")
    return load_tokenizer(kind)
