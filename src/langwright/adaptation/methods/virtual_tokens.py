"""What prompt tuning, P-tuning and prefix tuning share: virtual tokens before every text."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, attached
from langwright.adaptation.attachment_points import PREFIX
from langwright.adaptation.base_parameters import BaseTensor, saved_tensors
from langwright.adaptation.method import Method, Stored
from langwright.adaptation.settings import SettingError
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

KEY = "prompt_embeddings"
"""The one tensor in a file of virtual tokens."""


class VirtualTokenModule(AdapterModule):
    """The virtual tokens of one adapter.

    Args:
        table: the numbers that train.
        encoder: turns the table into the rows of the file. It is what trains; who only uses the tokens needs its output
            alone, which is all that PEFT keeps.
    """

    mixes: ClassVar[bool] = False

    def __init__(self, table: Tensor, encoder: nn.Module | None = None):
        super().__init__()
        self.table, self.encoder = nn.Parameter(table), encoder

    def rows(self) -> Tensor:
        """The numbers as they lie in the file, [rows, numbers]."""
        return self.table if self.encoder is None else self.encoder(self.table)


class VirtualTokenMethod(Method):
    """A method whose adapter is virtual tokens before every text. They take room in the model's context."""

    tokens: int
    stack: ClassVar[str] = "body"
    """The stack that the tokens come before; in an encoder-decoder soft prompts come before its encoder."""

    @abstractmethod
    def made(self, model: Model) -> VirtualTokenModule:
        """New virtual tokens for a model."""

    def virtual_tokens(self) -> int:
        return self.tokens

    def modules(self, model: Model) -> dict[str, AdapterModule]:
        if model.context is not None and self.tokens >= model.context:
            wanted = f"fewer than the {model.context} tokens of the model's context, or no room is left for a text"
            raise SettingError(self, "tokens", self.tokens, wanted)
        stack = self.stack if model.encoders else "body"
        return {stack: self.made(model).to(model.device)}

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        """A head for labels, under the names that PEFT gives it here."""
        return [BaseTensor(f"base_model.{t.key.removeprefix(PREFIX)}", t.entry) for t in saved_tensors(model, ())]

    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        (module,) = modules.values()

        def write(tensor: Tensor) -> None:
            """Without its encoder an adapter is the table that the encoder made."""
            _replace(model, module, nn.Parameter(tensor.to(module.table)), None)

        with torch.no_grad():
            shape = tuple(module.rows().shape)
        return [Stored(KEY, shape, lambda: module.rows().detach(), write)]

    def extra(self, modules: Mapping[str, Any]) -> dict[str, Tensor]:
        (module,) = modules.values()
        return {} if module.encoder is None else {name: value.detach() for name, value in module.state_dict().items()}

    def load_extra(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        if not tensors:
            return
        (module,) = attached(model).adapters[name].modules.values()
        assert isinstance(module, VirtualTokenModule)
        new = self.made(model).to(module.table.device)
        wanted = {key: tuple(value.shape) for key, value in new.state_dict().items()}
        if wanted != {key: tuple(value.shape) for key, value in tensors.items()}:
            odd = next(iter(set(wanted) ^ set(tensors)), None) or next(iter(wanted))
            raise UserError(f'{where}: tensor "{odd}" does not fit the encoder that the settings describe')
        new.load_state_dict(dict(tensors))
        if not torch.allclose(new.rows(), module.rows(), rtol=1e-4, atol=1e-5):
            raise UserError(f'{where}: the encoder does not give the "{KEY}" beside it')
        _replace(model, module, new.table, new.encoder)


def _replace(model: Model, module: VirtualTokenModule, table: nn.Parameter, encoder: nn.Module | None) -> None:
    """Give virtual tokens other parameters, which train in place of those before."""
    before = set(module.parameters())
    module.table, module.encoder = table, encoder
    for adapter in attached(model).adapters.values():
        if module in adapter.modules.values():
            adapter.trained = [*module.parameters(), *(p for p in adapter.trained if p not in before)]


class BeginsAsText(VirtualTokenMethod):
    """A method whose virtual tokens may begin as a text: `init` is "text" and `text` the text, or it is "text:..."."""

    inits: ClassVar[tuple[str, ...]]
    """What they may begin as besides a text."""
    init: str
    text: str | None
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init.startswith("text:"):
            object.__setattr__(self, "text", self.init.removeprefix("text:"))
            object.__setattr__(self, "init", "text")
        if self.init not in (*self.inits, "text"):
            raise SettingError(self, "init", self.init, f'{", ".join(self.inits)} or "text:..." with words of yours')
        if (self.init == "text") != (self.text is not None):
            raise UserError("virtual tokens begin as a text when a text is given, and only then")

    def prepared(self, tokenizer: Tokenizer) -> "Method":
        """The same, with the tokens of the text that it begins with."""
        if self.text is None:
            return self
        ids = tuple(tokenizer.encode(self.text))
        if not ids:
            raise UserError("--prompt-init text: the text is empty")
        return replace(self, ids=ids)  # type: ignore[type-var]


def standard_normal(like: Tensor, *shape: int) -> Tensor:
    """Numbers from N(0, 1), the same on every device."""
    return torch.empty(shape, device="meta") if like.is_meta else torch.randn(shape)
