"""Rotary positions as config.json spells them, old and new, in every family that has them."""

from dataclasses import dataclass
from typing import Annotated, Any

from langwright.base.value_types import Rule, check_types, one_of
from langwright.models.config import Config, Fields, Positive, Size, field_types
from langwright.parts import Rope
from langwright.parts.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Scaling, YarnScaling

KINDS: dict[str, Any] = {
    "default": None,
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
}
"""`rope_type` -> the scaling, whose fields `rope_parameters` has."""
FRACTION, ORIGINAL = "partial_rotary_factor", "original_max_position_embeddings"
TYPES: Fields = {
    "rope_type": Annotated[str, one_of(KINDS)],
    "rope_theta": Positive,
    FRACTION: Annotated[float, Rule("a number above 0 and at most 1", lambda part: 0 < part <= 1)],
}
"""Types of the fields of `rope_parameters` besides those of a scaling."""


@dataclass(frozen=True)
class RopeFields:
    """Where a family's config.json says how positions are rotated.

    transformers 5 writes all of it into `rope_parameters`. In older files the base lies at the top under the name
    `theta`, what stretches it in `rope_scaling`, and the part of each head that is rotated under the name `fraction`.
    usual: that part where a file does not say it; None in families that rotate whole heads.
    """

    theta: str = "rope_theta"
    fraction: str = FRACTION
    usual: float | None = None

    def rope(self, parameters: Fields | None, head_dim: int, context: int) -> Rope:
        """The rotary embedding that `rope_parameters` describe; ValueError for what cannot be built.

        context: `max_position_embeddings`, the original length where `rope_parameters` names none.
        """
        given = self._filled(parameters)
        check_types(given, TYPES, "rope_parameters: ")
        kind, theta = given.pop("rope_type"), given.pop("rope_theta")
        if self.usual is not None:
            head_dim = int(head_dim * given.pop(FRACTION))
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"head_dim = {head_dim}: rotary positions turn pairs")
        return Rope(head_dim, float(theta), _scaling(kind, given, context))

    def read(self, raw: Fields) -> Fields:
        """The older spelling in the newer one, which counts where a file has both."""
        fields = dict(raw)
        older: Fields = {}
        if self.usual is not None and self.fraction in fields:
            older[FRACTION] = fields.pop(self.fraction)
        for name, value in (fields.pop("rope_scaling", None) or {}).items():
            older["rope_type" if name == "type" else name] = value
        for name in ("rope_theta", self.theta):
            if (theta := fields.pop(name, None)) is not None:
                older["rope_theta"] = theta
        if older:
            fields["rope_parameters"] = {**older, **(fields.get("rope_parameters") or {})}
        return fields

    def write(self, fields: Fields) -> Fields:
        """The newer spelling, and the older one beside it for other readers."""
        rope = self._filled(fields["rope_parameters"])
        older: Fields = {self.theta: rope["rope_theta"]}
        if self.usual is not None:
            older[self.fraction] = rope[FRACTION]
        if rope["rope_type"] != "default":
            older["rope_scaling"] = {n: value for n, value in rope.items() if n not in ("rope_theta", FRACTION)}
        return {**fields, "rope_parameters": rope, **older}

    def _filled(self, parameters: Fields | None) -> Fields:
        part = {} if self.usual is None else {FRACTION: self.usual}
        return {"rope_type": "default", "rope_theta": 10_000.0, **part, **(parameters or {})}


def _scaling(kind: str, given: Fields, context: int) -> Scaling | None:
    """The scaling of a kind, each of its fields given, or left out where it has a default."""
    made = KINDS[kind]
    types = {} if made is None else field_types(made)
    check_types(given, types, "rope_parameters: ")
    values = {ORIGINAL: context} | given if ORIGINAL in types else given
    needed = {name for name in types if not hasattr(made, name)}
    for name in sorted(needed - values.keys() | values.keys() - types.keys()):
        state = "missing" if name in needed else "not known"
        raise ValueError(f"rope_parameters of type {kind!r}: {name} is {state}")
    if kind == "dynamic" and values[ORIGINAL] != context:
        raise ValueError("rope_parameters of type 'dynamic': the original length is max_position_embeddings")
    return None if made is None else made(**values)


WHOLE = RopeFields()
"""Of the families that rotate whole heads."""


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(Config):
    """The base of configs with rotary positions. rope_parameters: also from the fields of older files."""

    max_position_embeddings: Size = 2048
    rope_parameters: dict[str, Any] | None = None

    spelling = WHOLE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        return self.spelling.rope(self.rope_parameters, self.head_width, self.max_position_embeddings)

    @property
    def context(self) -> int:
        """As many positions as in training, and `factor` times as many with dynamic scaling."""
        scaling, trained = self.rope().scaling, self.max_position_embeddings
        return int(scaling.factor * trained) if isinstance(scaling, DynamicScaling) else trained
