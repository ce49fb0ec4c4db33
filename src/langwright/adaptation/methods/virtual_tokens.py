"""What prompt tuning, P-tuning and prefix tuning share: virtual tokens before every text."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, attached
from langwright.adaptation.attachment_points import PREFIX, BaseTensor
from langwright.adaptation.method import Method, Stored
from langwright.adaptation.settings import SettingError
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.virtual_tokens import VirtualTokens
from langwright.text.tokenizer import Tokenizer

KEY = "prompt_embeddings"
"""The one tensor in a file of virtual tokens."""


class VirtualTokenModule(AdapterModule):
    """The virtual tokens of one adapter.

    Args:
        table: the numbers that train.
        encoder: turns the table into the rows of the file. It is what trains; who only uses the tokens needs its output
            alone, which is all that PEFT keeps.
        tokens: turns the rows, [rows, numbers], into what a stack takes.
    """

    of_weights: ClassVar[bool] = False

    def __init__(self, table: Tensor, encoder: nn.Module | None, tokens: Callable[[Tensor], VirtualTokens]):
        super().__init__()
        self.table, self.encoder, self.tokens = nn.Parameter(table), encoder, tokens

    def rows(self) -> Tensor:
        """The numbers as they lie in the file, [rows, numbers]."""
        return self.table if self.encoder is None else self.encoder(self.table)

    def virtual_tokens(self) -> VirtualTokens:
        return self.tokens(self.rows())


class VirtualTokenMethod(Method):
    """A method whose adapter is virtual tokens before every text. They take room in the model's context.

    Attributes:
        stack: what the tokens come before; in an encoder-decoder soft prompts come before its encoder.
        init: what they begin as; "text" for the text in `text`, whose tokens are `ids`, also given as "text:...".
    """

    stack: ClassVar[str] = "body"
    init: str = "random"
    text: str | None = None
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.init.startswith("text:"):
            object.__setattr__(self, "text", self.init.removeprefix("text:"))
            object.__setattr__(self, "init", "text")
        super().__post_init__()
        if self.init == "text" and not self.text:
            raise SettingError(self, "init", "text", '"text:..." with words of yours')

    def prepared(self, tokenizer: Tokenizer) -> Any:
        """The same, with the tokens of the text that it begins with."""
        return self if self.text is None else replace(self, ids=tuple(tokenizer.encode(self.text)))  # type: ignore[type-var]

    @abstractmethod
    def made(self, model: Model) -> VirtualTokenModule:
        """New virtual tokens for a model."""

    def modules(self, model: Model) -> dict[str, AdapterModule]:
        if model.context is not None and self.tokens >= model.context:
            wanted = f"fewer than the {model.context} tokens of the model's context, or no room is left for a text"
            raise SettingError(self, "tokens", self.tokens, wanted)
        stack = self.stack if model.encoders else "body"
        return {stack: self.made(model)}

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        """A head for labels, under the names that PEFT gives it here."""
        heads = super().base_tensors(model)
        return [BaseTensor(f"base_model.{tensor.key.removeprefix(PREFIX)}", tensor.entry) for tensor in heads]

    @torch.no_grad()
    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        return [Stored.of(KEY, module.rows()) for module in modules.values()]

    def extra(self, modules: Mapping[str, Any]) -> dict[str, Tensor]:
        (module,) = modules.values()
        return {} if module.encoder is None else dict(module.state_dict())

    @torch.no_grad()
    def load(self, model: Model, name: str, tensors: Mapping[str, Tensor], extra: Mapping[str, Tensor] = {}) -> None:
        """As of any method. Without its encoder an adapter is the table that the encoder made."""
        module: Any = next(iter(attached(model).adapters[name].modules.values()))
        module.table, module.encoder = nn.Parameter(module.rows().clone()), None
        super().load(model, name, tensors)
        if extra:
            made = self.made(model).to(model.device)
            try:
                made.load_state_dict(dict(extra))
            except RuntimeError:
                raise UserError("the tensors beside it do not fit the encoder that the settings describe") from None
            if not torch.allclose(made.rows(), module.rows(), rtol=1e-4, atol=1e-5):
                raise UserError(f'the encoder beside it does not give "{KEY}"')
            module.table, module.encoder = made.table, made.encoder
