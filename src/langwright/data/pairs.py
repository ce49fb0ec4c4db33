"""Pairs of texts made ready for training: the encoder reads the source, the decoder writes the target."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from langwright.base.console import format_amount, say, warn
from langwright.corpora.pairs import Pair, open_pairs
from langwright.data.examples import Example, ExampleRows
from langwright.data.order import Layout
from langwright.data.pieces import Framing
from langwright.data.reading import framed, with_special_tokens
from langwright.data.supply import Batches, Supply, evaluation_batches
from langwright.data.texts import make_tokenizer
from langwright.text.tokenizer import Tokenizer


def pair_supply(
    spec: str,
    split: str,
    layout: Layout,
    context: int,
    frame: Callable[[Tokenizer], Framing],
    tokenizer: Tokenizer | None = None,
    kind: str = "bpe",
    vocabulary: int = 4096,
    packing: bool = False,
) -> Supply:
    """The pairs of two parallel files as training batches and held-out ones.

    Args:
        spec: the files, joined by `::`.
        split: what is held out.
        layout: of the batches.
        context: tokens of a source, and of a target, at most; longer ones lose their ends.
        frame: what stands around a text, given the tokenizer.
        tokenizer: one that exists; else a new one is made from both sides of the pairs.
        kind, vocabulary: of a new one; see `text_supply`.
        packing: several pairs share a row, none of which sees another.
    """
    pairs = open_pairs(spec)
    corpus = pairs.corpus()
    training, held_out, split = pairs.split(split)
    tokenizer = framed(with_special_tokens(tokenizer or make_tokenizer([corpus], [split], kind, vocabulary)), frame)
    around = frame(tokenizer)
    seen, measured = (pair_examples(side, tokenizer, around, context) for side in (training, held_out))
    targets, text = sum(len(example.targets) for example in measured), sum(len(p.target.encode()) for p in held_out)
    say(
        f"{spec}: {len(training):,} pairs with {format_amount(sum(len(e.targets) for e in seen), 'target tokens')} to "
        f"train on, {len(held_out):,} held out; vocabulary {tokenizer.vocab_size:,}"
    )
    return Supply(
        tokenizer,
        Batches(pair_rows(seen, context, packing), layout, by_length=not packing),
        lambda limit: evaluation_batches(pair_rows(measured, context), layout.batch_size, limit),
        targets,
        text,
        {**corpus.record(), "spec": spec, "split": split, "field": "text"},
        prompt=held_out[0].source,
    )


def pair_examples(pairs: Sequence[Pair], tokenizer: Tokenizer, frame: Framing, context: int) -> list[Example]:
    """Each pair as an example; what does not fit the context is cut off, and counted in a warning."""
    room = context - frame.size
    sides = [tokenizer.encode_batch(list(texts)) for texts in ([p.source for p in pairs], [p.target for p in pairs])]
    if over := sum(max(map(len, both)) > room for both in zip(*sides, strict=True)):
        warn(f"{over:,} of {len(pairs):,} pairs lost their ends to the context of {context} tokens; raise --context")
    sources, targets = ([np.array(ids[:room], np.int64) for ids in side] for side in sides)
    return [frame.pair(source, target) for source, target in zip(sources, targets, strict=True)]


def pair_rows(examples: Sequence[Example], context: int, packing: bool = False) -> ExampleRows:
    """Pairs as rows; see `ExampleRows`. They are identified by SHA-256 of their ids."""
    content = hashlib.sha256()
    for each in examples:
        for ids in (each.ids if each.source is None else each.source, each.targets):
            content.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    sizes = np.array([max(len(e.ids), 0 if e.source is None else len(e.source)) for e in examples], dtype=np.int64)
    return ExampleRows(lambda i, epoch: examples[i], sizes, context, {"pairs": content.hexdigest()}, packing)
