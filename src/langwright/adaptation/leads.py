"""Virtual tokens: what stands before a model's own, and where its numbers come from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.live import live
from langwright.adaptation.method import Method, SettingError, Stored, check_size
from langwright.adaptation.sides import Choice
from langwright.adaptation.whole import own_stored, saved_entries
from langwright.base.errors import UserError
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.parts.stack import Stack
from langwright.parts.virtual_tokens import VirtualTokens

KEY = "prompt_embeddings"
"""The one tensor in a file of virtual tokens."""


class Virtual(nn.Module, ABC):
    """The virtual tokens of one adapter: a table that training changes, or what an encoder makes of a table.

    encoder: turns the table into the rows of the file. It is what trains; whoever only uses the tokens needs its
    output alone, which is all that PEFT keeps.
    """

    def __init__(self, table: Tensor, encoder: nn.Module | None = None):
        super().__init__()
        self.table = nn.Parameter(table)
        self.encoder = encoder

    def rows(self) -> Tensor:
        """The numbers as they lie in the file, [rows, numbers]."""
        return self.table if self.encoder is None else self.encoder(self.table)

    @abstractmethod
    def forward(self) -> VirtualTokens:
        """What stands before the tokens."""


class Leads(nn.Module):
    """The virtual tokens before one stack, by the name of their adapter; those of the chosen one answer."""

    def __init__(self, choice: Choice):
        super().__init__()
        self.held = nn.ModuleDict()
        self.choice = choice

    def forward(self) -> VirtualTokens | None:
        """What stands before the tokens now; None where no chosen adapter has virtual tokens."""
        chosen = [] if self.choice.rows is not None else [name for name in self.choice.names if name in self.held]
        if len(chosen) > 1:
            raise UserError(f'only one adapter can stand before the text: choose "{chosen[0]}" or "{chosen[1]}"')
        lead: VirtualTokens | None = self.held[chosen[0]]() if chosen else None
        return lead


FLAG = "--virtual-tokens"


class Leading(Method):
    """A method whose adapter is virtual tokens in front of every text. They take room in the model's context."""

    mixes: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    in_peft: ClassVar[Mapping[str, str]] = {
        "tokens": "num_virtual_tokens",
        "submodules": "num_transformer_submodules",
        "hidden": "encoder_hidden_size",
        "layers": "encoder_num_layers",
        "dropout": "encoder_dropout",
    }
    tokens: int

    def _check_tokens(self) -> None:
        check_size("tokens", self.tokens, FLAG)

    @abstractmethod
    def _stack(self, model: Model) -> Stack:
        """The stack that the tokens stand before."""

    @abstractmethod
    def _virtual(self, model: Model) -> Virtual:
        """New virtual tokens for a model."""

    def _place(self, model: Model, name: str) -> list[nn.Parameter]:
        """Put new virtual tokens before a model's own."""
        if model.context is not None and self.tokens >= model.context:
            wanted = f"fewer than the {model.context} tokens of the model's context, or no room is left for a text"
            raise SettingError("tokens", self.tokens, wanted, FLAG)
        stack, virtual = self._stack(model), self._virtual(model).to(model.device)
        if stack.virtual_tokens is None:
            stack.virtual_tokens = Leads(live(model).choice)
        assert isinstance(stack.virtual_tokens, Leads)
        stack.virtual_tokens.held[name] = virtual
        _widen(model, -self.tokens)
        head = live(model).keep_own(model, name, [ours for _, entry in _head(model) for ours in entry.ours])
        return [*virtual.parameters(), *head]

    def _remove(self, model: Model, name: str) -> None:
        stack = self._stack(model)
        if not isinstance(stack.virtual_tokens, Leads) or name not in stack.virtual_tokens.held:
            return  # it was refused before it stood there
        del stack.virtual_tokens.held[name]
        if not stack.virtual_tokens.held:
            stack.virtual_tokens = None
        _widen(model, self.tokens)

    def virtual(self, model: Model, name: str) -> Virtual:
        """The virtual tokens of an adapter."""
        leads = self._stack(model).virtual_tokens
        assert isinstance(leads, Leads)
        found = leads.held[name]
        assert isinstance(found, Virtual)
        return found

    def _stored(self, model: Model, name: str) -> list[Stored]:
        virtual = self.virtual(model, name)

        def write(tensor: Tensor) -> None:
            """Without its encoder an adapter is the table that the encoder made."""
            before = set(virtual.parameters())
            virtual.encoder = None
            virtual.table = nn.Parameter(tensor.to(virtual.table))
            _train(model, name, before, virtual)

        with torch.no_grad():
            shape = tuple(virtual.rows().shape)
        head = [own_stored(model, name, key, entry) for key, entry in _head(model)]
        return [Stored(KEY, shape, lambda: virtual.rows().detach(), write), *head]

    def extra(self, model: Model, name: str) -> dict[str, Tensor]:
        virtual = self.virtual(model, name)
        return {} if virtual.encoder is None else {k: v.detach() for k, v in virtual.state_dict().items()}

    def load_extra(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        if not tensors:
            return
        virtual, new = self.virtual(model, name), self._virtual(model).to(model.device)
        wanted = {key: tuple(value.shape) for key, value in new.state_dict().items()}
        if wanted != {key: tuple(value.shape) for key, value in tensors.items()}:
            odd = next(iter(set(wanted) ^ set(tensors)), None) or next(iter(wanted))
            raise UserError(f'{where}: tensor "{odd}" does not fit the encoder that the settings describe')
        new.load_state_dict(dict(tensors))
        if not torch.allclose(new.rows(), virtual.rows(), rtol=1e-4, atol=1e-5):
            raise UserError(f'{where}: the encoder does not give the "{KEY}" beside it')
        before = set(virtual.parameters())
        virtual.table, virtual.encoder = new.table, new.encoder
        _train(model, name, before, virtual)


def leading_tokens(model: Model) -> int:
    """How many virtual tokens the chosen adapter puts before every text."""
    leads = [stack.virtual_tokens() for stack in model.stacks.values() if stack.virtual_tokens is not None]
    return sum(lead.length for lead in leads if lead is not None)


def _head(model: Model) -> list[tuple[str, Entry]]:
    """The tensors of a head for labels, which trains along, under the names that PEFT gives them here."""
    return [(f"base_model.{entry.disk}", entry) for _, entry in saved_entries(model, ())]


def _train(model: Model, name: str, before: set[nn.Parameter], virtual: Virtual) -> None:
    """Let an adapter's new parameters train in place of those before."""
    trained = live(model).trained
    trained[name] = [*virtual.parameters(), *(p for p in trained[name] if p not in before)]


def _widen(model: Model, tokens: int) -> None:
    """Give the virtual tokens' room in the context to the text, or take it; texts without end have no limit."""
    if model.context is not None:
        model.context += tokens
