"""Rotary positions as config.json spells them, old and new, in every family that has them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from langwright.models.checks import check_types
from langwright.models.family import Fields
from langwright.parts.positions import Rope
from langwright.parts.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Scaling, YarnScaling

KINDS: dict[str, Any] = {
    "default": None,
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
}
"""`rope_type` -> the scaling, whose fields `rope_parameters` has."""
FRACTION = "partial_rotary_factor"


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
        check_types(given, {"rope_type": str, "rope_theta": float, FRACTION: float}, "rope_parameters: ")
        kind, theta = given.pop("rope_type"), given.pop("rope_theta")
        if self.usual is not None:
            head_dim = _part(head_dim, given.pop(FRACTION))
        if kind not in KINDS:
            raise ValueError(f"rope_type = {kind!r} is not one of {', '.join(KINDS)}")
        if theta <= 0:
            raise ValueError(f"rope_parameters: rope_theta = {theta} must be above 0")
        if head_dim % 2:
            raise ValueError(f"head_dim = {head_dim} is odd, and rotary positions turn pairs")
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


def reach(rope: Rope, trained: int) -> int:
    """How many positions a model reads: as many as in its training, and `factor` times as many with dynamic scaling."""
    return int(rope.scaling.factor * trained) if isinstance(rope.scaling, DynamicScaling) else trained


def _part(head_dim: int, fraction: float) -> int:
    """How wide the part of a head is that is rotated."""
    if not 2 <= int(head_dim * fraction) <= head_dim:
        raise ValueError(
            f"{FRACTION} = {fraction} of heads of {head_dim} leaves nothing to rotate, or is more than all"
        )
    return int(head_dim * fraction)


def _scaling(kind: str, given: Fields, context: int) -> Scaling | None:
    """The scaling of a kind, each of its fields given, or left out where it has a default."""
    made = KINDS[kind]
    fields = () if made is None else dataclasses.fields(made)
    check_types(given, {field.name: field.type for field in fields}, "rope_parameters: ")
    names = {field.name for field in fields}
    values = dict.fromkeys(names & {"original_max_position_embeddings"}, context) | given
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    for name in sorted((needed - set(values)) | (set(values) - names)):
        state = "missing" if name in needed else "not known"
        raise ValueError(f"rope_parameters of type {kind!r}: {name} is {state}")
    if kind == "dynamic" and values["original_max_position_embeddings"] != context:
        raise ValueError("rope_parameters of type 'dynamic': the original length is max_position_embeddings")
    return None if made is None else made(**values)


WHOLE = RopeFields()
"""Of the families that rotate whole heads."""
