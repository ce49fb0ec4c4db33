"""The heads of encoders, decoders and encoder-decoders for labels and spans, as rows of `Family.heads`.

Each function takes the class in `architectures` and the names on disk that families give the same maps.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from langwright.models.config import ACTIVATIONS
from langwright.models.family import Head
from langwright.models.keymap import names
from langwright.parts import LabelHead, MaskedHead
from langwright.parts.heads import Pooling


def masked_head(architecture: str, root: str, dense: str, norm: str, activation: str | None = None) -> Head:
    """Of masked language modelling; its names begin with `root`. activation: that of the blocks unless given."""
    return Head(
        architecture,
        lambda c, tokens, labels: MaskedHead(c.hidden_size, activation or ACTIVATIONS[c.hidden_act], c.norm(), tokens),
        names({f"{root}.{dense}": "head.dense", f"{root}.{norm}": "head.norm", root: "head"}),
        copies={f"{root}.decoder.weight": "body.embed.tokens", f"{root}.decoder.bias": "head.bias"},
    )


def pretraining_head(architecture: str, masked: Head, dense: str, output: str) -> Head:
    """Masked language modelling, and beside it, as `next`, whether a text follows another one (BERT)."""
    return replace(
        masked,
        architecture=architecture,
        keys=[*masked.keys, *names({dense: "next.dense", output: "next.output"})],
        beside=lambda c: {"next": LabelHead(c.hidden_size, 2)},
    )


def sequence_head(architecture: str, dense: str, output: str, drop_input: bool = False) -> Head:
    """One of the labels for a text. drop_input: dropout also before the first of its two layers."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(
            c.hidden_size, labels, dropout=c.head_dropout(), input_dropout=c.head_dropout() if drop_input else 0.0
        ),
        names({dense: "head.dense", output: "head.output"}),
        labelled=True,
    )


def token_head(architecture: str) -> Head:
    """One of the labels for every token."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(c.hidden_size, labels, None, dense=False, dropout=c.head_dropout()),
        names({"classifier": "head.output"}),
        labelled=True,
    )


def span_head(architecture: str) -> Head:
    """Where an answer begins and ends."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(c.hidden_size, 2, None, dense=False),
        names({"qa_outputs": "head.output"}),
    )


def pooled_heads(name: str, pooling: Pooling) -> dict[str, Head]:
    """Labels for a text and for every token, of a family of our own. pooling: which hidden states stand for a text."""

    def head(architecture: str, pooling: Pooling | None) -> Head:
        return Head(
            architecture,
            lambda c, tokens, labels: LabelHead(c.output_width, labels, pooling, dense=False, dropout=c.hidden_dropout),
            names({"classifier": "head.output"}),
            labelled=True,
        )

    sequence, token = f"{name}ForSequenceClassification", f"{name}ForTokenClassification"
    return {"sequence": head(sequence, pooling), "token": head(token, None)}


def causal_heads(
    name: str,
    *,
    output: str = "score",
    dropout: Callable[[Any], float] = lambda c: 0.1,
    span_prefix: str | None = None,
    without: Collection[str] = (),
) -> dict[str, Head]:
    """The heads of a decoder: labels for a text, by its last token, and for every token, and bounds of spans.

    Args:
        name: what the classes of `transformers` begin with.
        output: what the linear layer for tokens is called on disk.
        dropout: before that layer, given the config.
        span_prefix: see `Head.prefix`; of the class for spans.
        without: heads for which `transformers` has no class.
    """
    rows = {
        "sequence": Head(
            f"{name}ForSequenceClassification",
            lambda c, tokens, labels: LabelHead(c.width, labels, "last", dense=False, bias=False),
            names({"score": "head.output"}),
            labelled=True,
        ),
        "token": Head(
            f"{name}ForTokenClassification",
            lambda c, tokens, labels: LabelHead(c.width, labels, None, dense=False, dropout=dropout(c)),
            names({output: "head.output"}),
            labelled=True,
        ),
        "span": Head(
            f"{name}ForQuestionAnswering",
            lambda c, tokens, labels: LabelHead(c.width, 2, None, dense=False),
            names({"qa_outputs": "head.output"}),
            prefix=span_prefix,
        ),
    }
    return {task: head for task, head in rows.items() if task not in without}


def encoder_decoder_heads(name: str, prefix: str | None = None) -> dict[str, Head]:
    """Labels for a text, by what its decoder makes of the last token, and bounds of spans, of T5 and BART.

    Args:
        name: what the classes of `transformers` begin with.
        prefix: see `Head.prefix`; of the class for labels.
    """
    return {
        "sequence": Head(
            f"{name}ForSequenceClassification",
            lambda c, tokens, labels: LabelHead(
                c.width, labels, "last", dropout=c.classifier_dropout, input_dropout=c.classifier_dropout
            ),
            names({"classification_head.dense": "head.dense", "classification_head.out_proj": "head.output"}),
            labelled=True,
            prefix=prefix,
        ),
        "span": Head(
            f"{name}ForQuestionAnswering",
            lambda c, tokens, labels: LabelHead(c.width, 2, None, dense=False),
            names({"qa_outputs": "head.output"}),
        ),
    }


def encoder_token_head(architecture: str, prefix: str) -> Head:
    """One of the labels for every token, of an encoder-decoder without its decoder (T5). prefix: see `Head.prefix`."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(c.width, labels, None, dense=False, dropout=c.classifier_dropout),
        names({"classifier": "head.output"}),
        labelled=True,
        prefix=prefix,
        encoder_only=True,
    )
