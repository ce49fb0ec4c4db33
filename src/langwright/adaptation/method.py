"""What a method of adaptation is: its settings, and one protocol for all methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor, nn

from langwright.adaptation.attached import Adapter, AdapterModule, attached
from langwright.adaptation.attachment_points import (
    ALL_LINEAR,
    PREFIX,
    AttachmentPoint,
    Target,
    Targets,
    match,
    points,
    tensors_of,
)
from langwright.adaptation.base_parameters import (
    BaseTensor,
    own_values,
    repeats,
    saved_modules,
    saved_tables,
    saved_tensors,
)
from langwright.adaptation.config_fields import Table, check_type, read_fields, write_fields
from langwright.adaptation.settings import check_ranges
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

DEFAULT = "default"
"""The name of an adapter unless it is given one."""


@dataclass(frozen=True)
class Stored:
    """One tensor of an adapter's file: its name and shape there, how it is read off the model and written to it."""

    key: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    write: Callable[[Tensor], Any]

    @classmethod
    def of(cls, key: str, *parameters: Tensor) -> "Stored":
        """The rows of one parameter, or of several one after the other."""
        rows = [len(parameter) for parameter in parameters]

        def write(tensor: Tensor) -> None:
            for parameter, piece in zip(parameters, tensor.split(rows), strict=True):
                parameter.data.copy_(piece)

        shape = (sum(rows), *parameters[0].shape[1:])
        return cls(key, shape, lambda: torch.cat([parameter.detach() for parameter in parameters]), write)

    @classmethod
    def fused(
        cls,
        key: str,
        point: AttachmentPoint,
        empty: Sequence[Tensor],
        parts: Mapping[int, tuple[Tensor, Callable[[Tensor], Tensor]]],
    ) -> "Stored":
        """A tensor with the rows of a fused module, of which parameters hold pieces.

        Args:
            key: its name.
            point: the fused module.
            empty: for each of its layers, what the file has in its rows where nothing is adapted.
            parts: by the number of the layer, a parameter, and a view of the layer's rows that has its shape.
        """

        def read() -> Tensor:
            pieces = [piece.clone() for piece in empty]
            for number, (parameter, view) in parts.items():
                view(pieces[number]).copy_(parameter.detach())
            return point.join(pieces)

        def write(tensor: Tensor) -> None:
            pieces = point.split(tensor, [len(piece) for piece in empty])
            for number, (parameter, view) in parts.items():
                parameter.data.copy_(view(pieces[number]))
            found = read()
            if not torch.equal(found, tensor.to(found)):
                raise UserError(f'tensor "{key}" also changes slices that the settings leave out')

        return cls(key, (sum(map(len, empty)), *empty[0].shape[1:]), read, write)


class Method:
    """The settings of a way to adapt a model: a frozen dataclass.

    A method says which modules it attaches (`modules`), what its file holds of them (`stored`), and how PEFT names its
    settings (`peft_fields`). Everything else is the same for all methods.

    Attributes:
        peft_type: its name in adapter_config.json.
        weights: the file of its tensors.
        peft_fields: the fields of adapter_config.json.
        checked: fields that follow from the model, and must fit it when they are read.
    """

    peft_type: ClassVar[str]
    weights: ClassVar[str] = "adapter_model.safetensors"
    peft_fields: ClassVar[Table] = {}
    checked: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_ranges(self)

    def modules(self, model: Model) -> Mapping[str, AdapterModule]:
        """New modules for a model, by the names of the modules that they are attached to."""
        return {}

    def stored(self, model: Model, modules: Mapping[str, AdapterModule]) -> list[Stored]:
        """What the file holds of these modules."""
        return []

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        """The tensors of the model itself that train: a head for labels, unless the method has more."""
        return saved_tensors(model, getattr(self, "modules_to_save", ()))

    def check_new(self, model: Model) -> None:
        """UserError for settings that files may have, but no new adapter of this model should."""

    def prepared(self, tokenizer: Tokenizer) -> "Method":
        """The same settings for a model with this tokenizer: a text that an adapter begins as becomes ids."""
        return self

    def rate(self, parameter: str) -> float:
        """The factor of the learning rate of a parameter, by its name in the model."""
        return 1.0

    def virtual_tokens(self) -> int:
        """How many virtual tokens stand before every text."""
        return 0

    def extra(self, modules: Mapping[str, AdapterModule]) -> dict[str, Tensor]:
        """What training needs to go on and PEFT does not keep; for a file beside PEFT's."""
        return {}

    def load_extra(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take up what `extra` gave."""
        if tensors:
            raise UserError(f'{where}: tensor "{next(iter(tensors))}" matches nothing in the adapter')

    def attach(
        self, model: Model, name: str = DEFAULT, seed: int = 0, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Attach an adapter to a model and choose it: the model is frozen, the adapter trains.

        Args:
            model: the model.
            name: of the adapter.
            seed: of its first numbers.
            tensors: those of the file that is loaded afterwards, if any; it may hold token tables of another length.

        Raises:
            UserError: where nothing would train, or the name is taken.
        """
        on, tensors = attached(model), tensors or {}
        on.place(())
        trained = self.base_tensors(model)
        entries = [*trained, *saved_tables(model, trained, tensors)]
        values = own_values(model, entries, tensors)
        own = [values[path] for tensor in trained for path in tensor.entry.ours]
        adapter = Adapter(self, entries, values, trained=own, tokens=self.virtual_tokens())

        def make() -> Mapping[str, AdapterModule]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self.modules(model)

        on.add(name, adapter, make)

    def detach(self, model: Model, name: str = DEFAULT) -> None:
        """Detach the adapter; after the last one the model is what it was."""
        attached(model).remove(name)

    def tensors(self, model: Model, name: str = DEFAULT) -> dict[str, Tensor]:
        """What the adapter has learnt, under the names that PEFT gives it."""
        return {stored.key: stored.read() for stored in self._everything(model, name)}

    @torch.no_grad()
    def load(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take up the tensors of a file.

        Args:
            model: the model.
            name: of the adapter, which is attached already.
            tensors: by their names in the file.
            where: the file, for errors.

        Raises:
            UserError: naming a tensor that is missing, unknown, or of another shape.
        """
        left = dict(tensors)
        for stored in self._everything(model, name):
            if stored.key not in left:
                raise UserError(f'{where}: tensor "{stored.key}" is missing from the adapter')
            tensor = left.pop(stored.key)
            if tuple(tensor.shape) != stored.shape:
                raise UserError(
                    f'{where}: tensor "{stored.key}" has shape {list(tensor.shape)}, '
                    f"settings and model ask for {list(stored.shape)}"
                )
            stored.write(tensor)
        own = {f"{PREFIX}{entry.disk}": entry for entry in tensors_of(model)}
        values = attached(model).adapters[name].values
        for key, tensor in left.items():
            entry = own.get(key.replace(".base_layer.", "."))
            if entry is None or (entry.ours[0] not in values and not repeats(model, entry, tensor)):
                raise UserError(f'{where}: tensor "{key}" of the adapter matches nothing in the model')

    def _everything(self, model: Model, name: str) -> list[Stored]:
        adapter = attached(model).adapters[name]
        own = [_stored_value(tensor, adapter.values) for tensor in adapter.entries]
        return [*self.stored(model, adapter.modules), *own]

    def settings(self) -> Fields:
        """All settings, as langwright.json keeps them: also those that PEFT has no word for."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_settings(cls, settings: Any, where: str) -> "Method":
        """The reverse of `settings`, out of JSON; UserError naming a setting that is unknown or of the wrong type."""
        kinds = get_type_hints(cls)
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(settings, dict):
            raise UserError(f"{where}: the settings of the adapter are not a JSON object")
        for name, value in settings.items():
            if name not in known:
                raise UserError(f'{where}: setting "{name}" of the adapter is not known')
            check_type(name, value, kinds[name], where)
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})

    def in_peft(self, model: Model) -> "Method":
        """The same settings, spelled out for one model by the means that PEFT has."""
        return self

    def facts(self, model: Model) -> Fields:
        """Fields of adapter_config.json that follow from the model."""
        return {}

    def to_peft(self, model: Model) -> Fields:
        """The fields of adapter_config.json, without those that all methods share (`adaptation/folder.py`)."""
        return write_fields(self.in_peft(model), self.peft_fields) | self.facts(model)

    @classmethod
    def from_peft(cls, given: Fields, model: Model, where: str) -> "Method":
        """The settings in an adapter_config.json; UserError naming the field that is not supported."""
        made = cls(**read_fields(given, cls.peft_fields, cls, where))
        facts = made.facts(model) if cls.checked else {}
        for field in cls.checked:
            if given.get(field) not in (None, facts[field]):
                raise UserError(
                    f"{where}: {field} = {given[field]!r} does not fit this model, which has {facts[field]}"
                )
        return made


class TargetedMethod(Method):
    """A method that acts on named modules: the settings `target`, `exclude` and `modules_to_save`."""

    kinds: ClassVar[tuple[str, ...]] = ("linear",)
    """The kinds of modules that it may act on."""
    target: Targets | None
    exclude: Targets
    modules_to_save: tuple[str, ...]

    def usual(self, model: Model) -> Targets:
        """What it acts on unless it is given targets."""
        raise NotImplementedError

    def wanted(self, model: Model) -> Targets:
        """What it acts on."""
        return self.usual(model) if self.target is None else self.target

    def targets(self, model: Model) -> list[Target]:
        """The points of a model that it acts on."""
        saved = saved_modules(model, self.modules_to_save)
        return match(points(model), self.wanted(model), self.exclude, kinds=self.kinds, saved=saved)

    def in_peft(self, model: Model) -> Any:
        """With names that PEFT knows too: it has no slices of fused modules."""
        targets, wanted = self.targets(model), self.wanted(model)
        if wanted == ALL_LINEAR or any(target.parts is not None for target in targets):
            wanted = tuple(target.point.name for target in targets)
        saved = saved_modules(model, self.modules_to_save)
        return replace(self, target=wanted, modules_to_save=saved)  # type: ignore[type-var]

    def facts(self, model: Model) -> Fields:
        return {"fan_in_fan_out": any(target.point.weight.transposed for target in self.targets(model))}


def _stored_value(tensor: BaseTensor, values: Mapping[str, nn.Parameter]) -> Stored:
    """A tensor of the model itself, with the values that an adapter has for it."""
    own = [values[path] for path in tensor.entry.ours]

    def write(found: Tensor) -> None:
        for parameter, piece in zip(own, tensor.entry.split(found, map(len, own)), strict=True):
            parameter.data.copy_(piece)

    shape = tuple(tensor.entry.shape([parameter.shape for parameter in own]))
    return Stored(tensor.key, shape, lambda: tensor.entry.join([p.detach() for p in own]), write)


def trained_names(model: Model) -> list[str]:
    """The parameters that train, by their names in the model."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
