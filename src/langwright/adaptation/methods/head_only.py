"""Feature extraction: all but the head is a fixed machine that makes features."""

from dataclasses import dataclass
from typing import ClassVar

from langwright.adaptation.attachment_points import PREFIX, BaseTensor, is_tied, tensors_of
from langwright.adaptation.method import Method
from langwright.base.errors import UserError
from langwright.models.model import Model


@dataclass(frozen=True)
class HeadOnly(Method):
    """The head trains on what the fixed model makes of a text. The folder is ours alone."""

    peft_type: ClassVar[str] = "HEAD"

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        shared = ("head.weight",) if is_tied(model) else None
        entries = [e for e in tensors_of(model) if e.ours[0].startswith("head.") and e.ours != shared]
        if not any(model.get_parameter(entry.ours[0]).ndim > 1 for entry in entries):
            raise UserError("the head is the model's token table, or there is none: nothing of its own could train")
        return [BaseTensor(f"{PREFIX}{entry.disk}", entry) for entry in entries]
