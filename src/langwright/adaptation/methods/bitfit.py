"""BitFit (Ben Zaken et al., 2021): the biases of a model train."""

from dataclasses import dataclass
from typing import ClassVar

from langwright.adaptation.attachment_points import PREFIX, BaseTensor, points
from langwright.adaptation.method import Method
from langwright.base.errors import UserError
from langwright.models.model import Model


@dataclass(frozen=True)
class BitFit(Method):
    """All biases of the model train, those of its norms included. PEFT has no word for it: the folder is ours alone."""

    peft_type: ClassVar[str] = "BITFIT"

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        found = {point.bias.disk: point.bias for point in points(model).values() if point.bias is not None}
        if not found:
            raise UserError(f"this {model.family} model has no biases that BitFit could train; take another method")
        heads = [tensor for tensor in super().base_tensors(model) if tensor.entry.disk not in found]
        return [BaseTensor(f"{PREFIX}{disk}", entry) for disk, entry in found.items()] + heads
