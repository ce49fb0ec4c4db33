"""Models of series of several channels: the layers of any family, behind a linear layer in place of its token table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langwright.models.config import Config, Fields, ShapeFields, Size
from langwright.models.family import Family, Head
from langwright.models.keymap import Entry, names
from langwright.models.model import Model
from langwright.parts.series import SeriesVectors

HEAD = "sequence"
"""What the head of a series is for: one label."""


@dataclass(frozen=True)
class SeriesConfig(Config):
    """The fields of config.json.

    channels: how many numbers a sample has. samples: how many in a row become one vector. window: the most samples of a
    series. family, body: whose layers these are, and its config, whose positions are those of vectors.
    """

    channels: Size
    samples: Size
    window: Size
    family: str
    body: Any

    shape = ShapeFields(heads=None, context="window")
    vocab_size = 0

    @property
    def width(self) -> int:
        """That of the layers."""
        return int(self.body.width)

    @property
    def initializer_range(self) -> float:
        """That of the layers."""
        return float(getattr(self.body, "initializer_range", 0.02))


def series_family(table: Mapping[str, Family]) -> Family:
    """The row of models of series. table: the families whose layers they may have."""

    def build(config: SeriesConfig) -> Model:
        body = table[config.family].build(config.body).body
        body.embed.read_by(SeriesVectors(config.channels, config.samples, body.embed.tokens.shape[1]))
        return Model(body, config=config, task="hidden")

    def keys(config: SeriesConfig) -> list[Entry]:
        own = names({"vectors": "body.embed.vectors.input"})
        return [*table[config.family].keys(config.body), *own]

    def initialise(model: Model) -> None:
        config, model.config = model.config, model.config.body
        table[config.family].initialise(model)
        model.config = config

    def read(fields: Fields) -> Fields:
        name, body = fields.get("family"), fields.get("body")
        if name not in able(table) or not isinstance(body, dict):
            raise ValueError(f"family = {name!r} and body must be a family for series and its config")
        return {**fields, "body": table[name].parse(body, "body")}

    def write(values: Fields) -> Fields:
        row = table[values["family"]]
        return {**values, "body": row.dump(row.config(**values["body"]))}

    head = Head(
        "SeriesForClassification",
        lambda c, tokens, labels: table[c.family].heads[HEAD].make(c.body, tokens, labels),
        names({"head.dense": "head.dense", "head.output": "head.output"}),
        labelled=True,
    )
    return Family(
        name="series",
        architecture="SeriesModel",
        config=SeriesConfig,
        builder=build,
        keys=keys,
        initialise=initialise,
        own=True,
        reads="series",
        task="hidden",
        heads={HEAD: head},
        read=read,
        write=write,
    )


def able(table: Mapping[str, Family]) -> list[str]:
    """The families whose layers can read series."""
    return [name for name, row in table.items() if HEAD in row.heads and not row.is_encoder_decoder]
