"""The heads of BERT and of the encoders that follow it, as rows of `Family.heads`.

Each function takes the class in `architectures` and the names on disk that families give the same maps.
"""

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


def last_token_head(architecture: str) -> Head:
    """The head of `...ForSequenceClassification` of the decoder families. architecture: its class."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(c.width, labels, "last", dense=False, bias=False),
        names({"score": "head.output"}),
        labelled=True,
    )
