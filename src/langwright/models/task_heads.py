"""The heads of BERT and of the encoders that follow it, as rows of `Family.heads`.

Each function takes the class in `architectures` and the names on disk that families give the same maps.
"""

from langwright.models.checks import ACTIVATIONS
from langwright.models.family import Head
from langwright.models.keymap import Entry, affine, affines
from langwright.parts.heads import LabelHead, MaskedHead


def masked_head(architecture: str, root: str, dense: str, norm: str, activation: str | None = None) -> Head:
    """Of masked language modelling; its names begin with `root`. activation: that of the blocks unless given."""
    return Head(
        architecture,
        lambda c, tokens, labels: MaskedHead(c.hidden_size, activation or ACTIVATIONS[c.hidden_act], c.norm(), tokens),
        lambda c: [
            *affines({f"{root}.{dense}": "head.dense", f"{root}.{norm}": "head.norm"}),
            Entry(f"{root}.bias", ("head.bias",)),
        ],
        copies={f"{root}.decoder.weight": "body.embed.tokens", f"{root}.decoder.bias": "head.bias"},
    )


def sequence_head(architecture: str, dense: str, output: str, drop_input: bool = False) -> Head:
    """One of the labels for a text. drop_input: dropout also before the first of its two maps."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(
            c.hidden_size, labels, dropout=c.head_dropout(), input_dropout=c.head_dropout() if drop_input else 0.0
        ),
        lambda c: affines({dense: "head.dense", output: "head.output"}),
        labelled=(f"{output}.weight", f"{output}.bias"),
    )


def token_head(architecture: str) -> Head:
    """One of the labels for every token."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(c.hidden_size, labels, None, dense=False, dropout=c.head_dropout()),
        lambda c: affine("classifier", "head.output"),
        labelled=("classifier.weight", "classifier.bias"),
    )


def span_head(architecture: str) -> Head:
    """Where an answer begins and ends."""
    return Head(
        architecture,
        lambda c, tokens, labels: LabelHead(c.hidden_size, 2, None, dense=False),
        lambda c: affine("qa_outputs", "head.output"),
    )


def last_token_head(architecture: str) -> Head:
    """The head of `...ForSequenceClassification` of the decoder families. architecture: its class."""
    return Head(
        architecture,
        lambda config, tokens, labels: LabelHead(tokens.shape[1], labels, "last", dense=False, bias=False),
        lambda config: [Entry("score.weight", ("head.output.weight",))],
        labelled=("score.weight",),
    )
