"""A causal model as a classifier: one linear layer on the hidden state of the last token."""

from langwright.models.family import Head
from langwright.models.keymap import Entry
from langwright.parts.heads import SequenceHead


def last_token_head(architecture: str) -> Head:
    """The head of `...ForSequenceClassification` of the decoder families. architecture: its class."""
    return Head(
        architecture,
        lambda config, tokens, labels: SequenceHead(tokens.shape[1], labels, "last", dense=False, bias=False),
        lambda config: [Entry("score.weight", ("head.output.weight",))],
        labelled=("score.weight",),
    )
