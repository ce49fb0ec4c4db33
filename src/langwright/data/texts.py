"""Text made ready for training: a corpus, its tokenizer, and the tokens of both sides of the split.

Text is tokenised on all cores, in bounded memory, and kept as token shards for the next run.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from langwright.base.console import format_amount, progress, say
from langwright.base.errors import UserError
from langwright.base.files import atomic_folder, cache_folder
from langwright.base.hub import PREFIX
from langwright.corpora.document import Corpus, Document
from langwright.corpora.opening import named_corpora, open_corpus
from langwright.corpora.sampling import sample_texts
from langwright.corpora.splits import parse_split, settle_split, split_documents
from langwright.data.mixture import Mixture, Together, mixture_record, parse_mix
from langwright.data.order import Layout
from langwright.data.prefetch import prefetch
from langwright.data.reading import Reading
from langwright.data.shards import VERSION, Tokens, open_shard, write_shard
from langwright.data.streams import READ_AT_ONCE, InOrder, Streams, whole_documents
from langwright.data.supply import Batches, Row, StatefulBatches, StepBatches, Supply, evaluation_batches
from langwright.text.opening import load_tokenizer
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import characters, raw_bytes, train_bpe, train_words

BATCH_CHARACTERS = 1 << 20
"""How much text is tokenised at a time; the library's own records take about a hundred bytes a token meanwhile."""

SAMPLE_BYTES = 64 << 20
"""Text that a new BPE tokenizer sees at most."""


def text_supply(
    spec: str,
    split: str,
    field: str,
    layout: Layout,
    reading: Reading | InOrder,
    tokenizer: Tokenizer | None = None,
    kind: str = "bpe",
    vocabulary: int = 4096,
    mix: str | None = None,
) -> Supply:
    """A corpus or a mixture opened, split and tokenised: rows of the training side, and those of the other.

    Args:
        spec: the corpus, or several with names; see `named_corpora`.
        split: what is held out.
        field: of files that have several, the one with the text.
        layout: of the batches.
        reading: how tokens become rows.
        tokenizer: one that exists; else a new one is made from the training side.
        kind: of a new one: "bpe", "words", "characters", "bytes", or a folder that holds one.
        vocabulary: the size of a new one.
        mix: how much of each corpus of a mixture is drawn; see `parse_mix`.
    """
    named = named_corpora(spec)
    if mix is not None and not named:
        raise UserError(f"--mix: {spec} is one corpus; name those to be mixed, such as web=PATH,code=PATH")
    if named and isinstance(reading, InOrder):
        raise UserError(f"{spec}: a family that reads its text in order takes one corpus")
    weights = None if mix is None else parse_mix(mix, list(named))
    specs = list(named.values()) or [spec]
    corpora = [open_corpus(each, field=field) for each in specs]
    splits = [str(settle_split(corpus, split)) for corpus in corpora]
    tokenizer = reading.ready(tokenizer or make_tokenizer(corpora, splits, kind, vocabulary))
    sides = [prepare(c, tokenizer, s, cache_folder() / "tokens") for c, s in zip(corpora, splits, strict=True)]
    records: list[Row] = [
        {**corpus.record(), "spec": each, "split": settled, "field": field}
        for each, corpus, settled in zip(specs, corpora, splits, strict=True)
    ]
    for record, (training, validation) in zip(records, sides, strict=True):
        say(
            f"{record['name']}: {record['documents']:,} documents, {format_amount(record['bytes'], 'bytes')}; "
            f"{len(training):,} tokens to train on, {len(validation):,} held out; vocabulary {tokenizer.vocab_size:,}"
        )
    batches: StepBatches | StatefulBatches
    more: dict[str, Any] = {}
    training, validation = sides[0]
    if isinstance(reading, InOrder):
        batches = Streams(training, layout, reading.context, reading.crossing)
        held_out = partial(whole_documents, validation, layout.batch_size, READ_AT_ONCE)
    else:
        seen, measured = ([reading.rows(tokenizer, s[i], layout.seed, i == 0) for s in sides] for i in (0, 1))
        batches, rows = Batches(seen[0], layout), measured[0]
        if named:
            batches, rows = Mixture(dict(zip(named, seen, strict=True)), layout, weights), Together(measured)
            each_held_out = zip(named, measured, strict=True)
            more = {
                "drawn": batches.drawn,
                "parts": {n: partial(evaluation_batches, r, layout.batch_size) for n, r in each_held_out if len(r)},
            }
        held_out = partial(evaluation_batches, rows, layout.batch_size)
    return Supply(
        tokenizer,
        batches,
        held_out,
        sum(len(held) for _, held in sides),
        sum(held.text_bytes for _, held in sides) if reading.predicts_all else None,
        mixture_record(dict(zip(named, records, strict=True)), spec) if named else records[0],
        prompt="" if reading.predicts_all else None,
        **more,
    )


def make_tokenizer(corpora: Sequence[Corpus], splits: Sequence[str], kind: str, vocabulary: int) -> Tokenizer:
    """A tokenizer for corpora: learnt from their training sides and kept for the next run, or read from a folder."""
    if kind == "characters":
        return characters(document.text for corpus in corpora for document in corpus)
    both = list(zip(corpora, splits, strict=True))
    content = " ".join(f"{corpus.record()['hash']} {parse_split(split)}" for corpus, split in both)
    training = (document for corpus, split in both for document in split_documents(corpus, split)[0])
    return new_tokenizer(sample_texts(training, SAMPLE_BYTES), content, kind, vocabulary)


def new_tokenizer(texts: Iterable[str], content: str, kind: str, vocabulary: int) -> Tokenizer:
    """A tokenizer that is learnt from texts and kept for the next run, or read from a folder.

    Args:
        texts: what it is learnt from; they are not read where it is kept already.
        content: identifies them.
        kind, vocabulary: see `text_supply`.
    """
    if kind == "bytes":
        return raw_bytes()
    if kind == "characters":
        return characters(texts)
    if kind in ("bpe", "words"):
        train, mark = (train_bpe, "") if kind == "bpe" else (train_words, " words")
        key = hashlib.sha256(f"{content} {vocabulary}{mark}".encode()).hexdigest()[:32]
        folder = cache_folder() / "tokenizers" / key
        if not folder.is_dir():
            made = train(texts, vocabulary)
            with atomic_folder(folder) as new:
                made.save(new)
        return load_tokenizer(folder)
    if not kind.startswith(PREFIX) and not Path(kind).is_dir():
        raise UserError(
            f"--tokenizer {kind}: neither bpe, words, characters or bytes nor a folder that holds a tokenizer"
        )
    return load_tokenizer(kind)


def prepare(corpus: Corpus, tokenizer: Tokenizer, split: str, cache: Path) -> tuple[Tokens, Tokens]:
    """The training and the validation tokens of a corpus.

    Args:
        corpus: the text.
        tokenizer: what makes tokens of it.
        split: which documents are held out.
        cache: the folder where shards are kept, by the content of the corpus, the tokenizer and the split; what is
            there is opened, not made again.

    Raises:
        UserError: Either side of the split is empty, or a kept shard is damaged.
    """
    rule = parse_split(split)
    content = {
        "version": VERSION,
        "corpus": corpus.record()["hash"],
        "tokenizer": tokenizer.fingerprint(),
        "split": rule,
    }
    folder = cache / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    names = ("training.tokens", "validation.tokens")
    if not folder.is_dir():
        parts = split_documents(corpus, rule)
        with atomic_folder(folder) as new, progress("tokenising", corpus.record()["bytes"], "bytes") as advance:
            for name, documents in zip(names, parts, strict=True):
                _write(new / name, documents, tokenizer, advance)
    training, validation = (open_shard(folder / name) for name in names)
    return training, validation


def tokenise(documents: Iterable[Document], tokenizer: Tokenizer, path: Path) -> Tokens:
    """All documents as one shard at `path`, without a split; the file is written anew."""
    with progress("tokenising", None, "bytes") as advance:
        _write(path, documents, tokenizer, advance)
    return open_shard(path)


def _write(path: Path, documents: Iterable[Document], tokenizer: Tokenizer, advance: Callable[[int], None]) -> None:
    """Write documents, in their order, as a shard; each is `opening` + text + [eos].

    The next batch is tokenised, by the library's threads, while one is written. advance: takes the UTF-8 bytes of text
    that were done.
    """
    opening, eos = tokenizer.opening, [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    batches = _batches(documents, tokenizer)
    encoded = ((batch, tokenizer.encode_batch([text for text, _ in batch])) for batch in batches)
    with write_shard(path, tokenizer.vocab_size, tokenizer.fingerprint()) as writer:
        begins = True
        for batch, rows in prefetch(encoded, ahead=1):
            for (text, ends), ids in zip(batch, rows, strict=True):
                size = len(text.encode())
                writer.add([*(opening if begins else []), *ids, *(eos if ends else [])], size)
                if ends:
                    writer.end_document()
                begins = ends
                advance(size)


def _batches(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[tuple[str, bool]]]:
    """Pieces in their order, and whether each ends its document, in lists of about `BATCH_CHARACTERS` characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for document in documents:
        left = len(document.text)
        for piece in tokenizer.pieces(document.text):
            left -= len(piece)
            batch.append((piece, left == 0))
            size += len(piece)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
