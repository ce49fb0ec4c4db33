"""Rotary positions in part of each head, as config.json spells them."""

from collections.abc import Callable

from langwright.models.family import Fields
from langwright.models.llama import read, rotary
from langwright.parts.positions import Rope

FRACTION = "partial_rotary_factor"


def partial_rope(parameters: Fields | None, head_dim: int, usual: float, context: int) -> Rope:
    """The rotary embedding that `rope_parameters` describe; ValueError for what cannot be built.

    usual: the part of a head that is rotated where they do not say. context: the longest text the model was made for.
    """
    rest = dict(parameters or {})
    fraction = rest.pop(FRACTION, usual)
    if not 2 <= int(head_dim * fraction) <= head_dim:
        raise ValueError(
            f"{FRACTION} = {fraction} of heads of {head_dim} leaves nothing to rotate, or is more than all"
        )
    return rotary(rest, int(head_dim * fraction), context)


def reader(fraction: str, theta: str) -> Callable[[Fields], Fields]:
    """Reads the older spelling, in which these top-level fields hold the part that is rotated and the base."""

    def reads(raw: Fields) -> Fields:
        older = {fraction: FRACTION, theta: "rope_theta"}
        moved = {older[name]: value for name, value in raw.items() if name in older}
        part = {FRACTION: moved.pop(FRACTION)} if FRACTION in moved else {}
        fields = read({**{name: value for name, value in raw.items() if name not in older}, **moved})
        if part:
            fields["rope_parameters"] = {**part, **(fields.get("rope_parameters") or {})}
        return fields

    return reads


def writer(fraction: str, theta: str, usual: float) -> Callable[[Fields], Fields]:
    """Writes the spelling of transformers 5, and the older one beside it for other readers."""

    def writes(fields: Fields) -> Fields:
        given = fields["rope_parameters"] or {}
        rope = {"rope_type": "default", "rope_theta": 10_000.0, FRACTION: usual, **given}
        older: Fields = {fraction: rope[FRACTION], theta: rope["rope_theta"]}
        if rope["rope_type"] != "default":
            older["rope_scaling"] = {
                name: value for name, value in rope.items() if name not in ("rope_theta", FRACTION)
            }
        return {**fields, "rope_parameters": rope, **older}

    return writes
