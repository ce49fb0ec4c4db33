"""What a method of adaptation is: its settings, and one protocol for all methods."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from langwright.adaptation.attached import Adapter, AdapterModule, attached
from langwright.adaptation.attachment_points import (
    ALL_LINEAR,
    PREFIX,
    AttachmentPoint,
    BaseTensor,
    Targets,
    match,
    own_values,
    repeats,
    row_numbers,
    saved_modules,
    saved_tables,
    saved_tensors,
    tensors_of,
)
from langwright.adaptation.settings import Table, check_ranges, holds, read_fields, setting, write_fields
from langwright.base.errors import UserError
from langwright.models.families import ROWS
from langwright.models.family import AdapterTargets, Fields
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

DEFAULT = "default"
"""The name of an adapter unless it is given one."""


@dataclass(frozen=True)
class Stored:
    """One tensor of an adapter's file, and the parameters that it is made of.

    Args:
        key: its name.
        parameters: the parameters.
        places: where each lies in the upright tensor, as an index.
        rest: the upright tensor where no parameter lies.
        transposed: whether the file holds it transposed.
    """

    key: str
    parameters: Sequence[Tensor]
    places: list[Any]
    rest: Tensor
    transposed: bool = False

    @classmethod
    def of(cls, key: str, *parameters: Tensor) -> "Stored":
        """The rows of one parameter, or of several one after the other."""
        ends = list(accumulate(map(len, parameters), initial=0))
        places = [slice(*ends_) for ends_ in pairwise(ends)]
        rest = torch.zeros(1).expand(ends[-1], *parameters[0].shape[1:])
        return cls(key, parameters, places, rest)

    def read(self) -> Tensor:
        """The tensor, in float32 on the CPU."""
        found = self.rest.clone()
        for parameter, place in zip(self.parameters, self.places, strict=True):
            found[place] = parameter.detach().to(found)
        return found.t() if self.transposed else found

    def write(self, tensor: Tensor) -> None:
        """Give the parameters the numbers of a file's tensor; UserError naming it where it does not fit."""
        upright = tensor.t() if self.transposed else tensor
        if upright.shape != self.rest.shape:
            wanted = list(self.rest.t().shape if self.transposed else self.rest.shape)
            raise UserError(f'tensor "{self.key}" has shape {list(tensor.shape)}, settings and model ask for {wanted}')
        left = upright.to(self.rest, copy=True)
        for parameter, place in zip(self.parameters, self.places, strict=True):
            parameter.data.copy_(upright[place])
            left[place] = self.rest[place]
        if not torch.equal(left, self.rest):
            raise UserError(f'tensor "{self.key}" also changes slices that the settings leave out')


class Method:
    """The settings of a way to adapt a model: a frozen dataclass.

    A method says which modules it attaches (`modules`), what its file holds of them (`stored`), and how PEFT names its
    settings (`peft_fields`). Everything else is the same for all methods.

    Attributes:
        peft_type: its name in adapter_config.json.
        weights: the file of its tensors.
        peft_fields: the fields of adapter_config.json.
        tokens: how many virtual tokens stand before every text.
    """

    peft_type: ClassVar[str]
    weights: ClassVar[str] = "adapter_model.safetensors"
    peft_fields: ClassVar[Table] = {}
    tokens: int = 0

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
        return saved_tensors(model, ())

    def check_new(self, model: Model) -> None:
        """UserError for settings that files may have, but no new adapter of this model should."""

    def prepared(self, tokenizer: Tokenizer) -> "Method":
        """The same settings for a model with this tokenizer: a text that an adapter begins as becomes ids."""
        return self

    def rate(self, parameter: str) -> float:
        """The factor of the learning rate of a parameter, by its name in the model."""
        return 1.0

    def extra(self, modules: Mapping[str, AdapterModule]) -> dict[str, Tensor]:
        """What training needs to go on and PEFT does not keep; for a file beside PEFT's."""
        return {}

    def attach(self, model: Model, name: str = DEFAULT, seed: int = 0, tensors: Mapping[str, Tensor] = {}) -> None:
        """Attach an adapter to a model and choose it: the model is frozen, the adapter trains.

        Args:
            model: the model.
            name: of the adapter.
            seed: of its first numbers.
            tensors: those of the file that is loaded afterwards, if any; it may hold token tables of another length.

        Raises:
            UserError: where nothing would train, or the name is taken.
        """
        on = attached(model)
        with on.placed():
            trained = self.base_tensors(model)
            entries = [*trained, *saved_tables(model, trained, tensors)]
            values = own_values(model, entries, tensors)
        own = [values[path] for tensor in trained for path in tensor.entry.ours]
        device, drawn = model.device, torch.device("meta" if model.device.type == "meta" else "cpu")
        with on.placed(values), torch.random.fork_rng(devices=[]), drawn:  # the same numbers on every device
            torch.manual_seed(seed)
            modules = {path: module.to(device) for path, module in self.modules(model).items()}
        on.add(name, Adapter(self, entries, values, modules, own))

    def detach(self, model: Model, name: str = DEFAULT) -> None:
        """Detach the adapter; after the last one the model is what it was."""
        attached(model).remove(name)

    def tensors(self, model: Model, name: str = DEFAULT) -> dict[str, Tensor]:
        """What the adapter has learnt, under the names that PEFT gives it."""
        return {stored.key: stored.read() for stored in self._everything(model, name)}

    @torch.no_grad()
    def load(self, model: Model, name: str, tensors: Mapping[str, Tensor], extra: Mapping[str, Tensor] = {}) -> None:
        """Take up the tensors of a file.

        Args:
            model: the model.
            name: of the adapter, which is attached already.
            tensors: by their names in the file.
            extra: what `extra` gave when the file was written.

        Raises:
            UserError: naming a tensor that is missing, unknown, or of another shape.
        """
        left = dict(tensors)
        for stored in self._everything(model, name):
            if stored.key not in left:
                raise UserError(f'tensor "{stored.key}" is missing from the adapter')
            stored.write(left.pop(stored.key))
        own = {f"{PREFIX}{entry.disk}": entry for entry in tensors_of(model)}
        values = attached(model).adapters[name].values
        for key, tensor in left.items():
            entry = own.get(key.replace(".base_layer.", "."))
            if entry is None or (entry.ours[0] not in values and not repeats(model, entry, tensor)):
                raise UserError(f'tensor "{key}" of the adapter matches nothing in the model')

    def _everything(self, model: Model, name: str) -> list[Stored]:
        """What the file holds: of the modules, and of the model itself."""
        adapter = attached(model).adapters[name]
        found = list(self.stored(model, adapter.modules))
        for tensor in adapter.entries:
            own = [adapter.values[path] for path in tensor.entry.ours]
            rows = row_numbers(tensor.entry, [len(parameter) for parameter in own])
            found.append(replace(Stored.of(tensor.key, *own), places=rows, transposed=tensor.entry.transposed))
        return found

    def facts(self, model: Model) -> Fields:
        """Fields of adapter_config.json that follow from the model."""
        return {}

    def to_peft(self, model: Model) -> Fields:
        """The fields of adapter_config.json, without those that all methods share (`adaptation/folder.py`)."""
        return write_fields(self, self.peft_fields) | self.facts(model)

    @classmethod
    def from_peft(cls, given: Fields, model: Model) -> "Method":
        """The settings in an adapter_config.json; UserError naming the field that is not supported."""
        return cls(**read_fields(given, cls.peft_fields, cls))

    @classmethod
    def from_settings(cls, settings: Fields) -> "Method":
        """The settings in our record of an adapter, which also holds those that PEFT has no word for."""
        table = holds(*(field.name for field in fields(cls)))  # type: ignore[arg-type]
        return cls(**read_fields(settings, table, cls))


@dataclass(frozen=True, kw_only=True)
class TargetedMethod(Method):
    """A method that acts on named modules.

    Args:
        target: names of modules or their endings, a regular expression of whole names, or all-linear; the family's
            usual ones unless given.
        exclude: names, endings or an expression of modules that it leaves out.
        modules_to_save: names of modules that train whole.

    Attributes:
        kinds: the kinds of modules that it may act on.
    """

    kinds: ClassVar[tuple[str, ...]] = ("linear",)
    peft_fields: ClassVar[Table] = holds(
        target_modules="target", exclude_modules="exclude", modules_to_save="modules_to_save"
    )
    target: Targets | None = setting(None, option="target")
    exclude: Targets = ()
    modules_to_save: tuple[str, ...] = setting((), option="whole")

    @abstractmethod
    def usual(self, model: Model, row: AdapterTargets) -> Targets:
        """What it acts on unless it is given targets. row: what adapters of the model's family usually act on."""

    def wanted(self, model: Model) -> Targets:
        """What it acts on."""
        return self.usual(model, ROWS[model.family].adapters) if self.target is None else self.target

    def targets(self, model: Model) -> list[AttachmentPoint]:
        """The points of a model that it acts on."""
        saved = saved_modules(model, self.modules_to_save)
        return match(model, self.wanted(model), self.exclude, self.kinds, saved)

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        return saved_tensors(model, self.modules_to_save)

    def facts(self, model: Model) -> Fields:
        """Names that PEFT knows too: it has no slices of fused modules."""
        targets, wanted = self.targets(model), self.wanted(model)
        if wanted == ALL_LINEAR or any(point.parts is not None for point in targets):
            wanted = tuple(point.name for point in targets)
        return {"target_modules": wanted, "modules_to_save": saved_modules(model, self.modules_to_save) or None}
