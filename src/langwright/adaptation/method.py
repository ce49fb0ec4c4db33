"""What a method of adaptation is: settings, and one protocol to put an adapter on a model and take it off again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_type_hints

import torch
from torch import Tensor, nn

from langwright.adaptation.live import choose, live
from langwright.adaptation.sides import BASE, step_aside
from langwright.adaptation.targets import Place, Targets
from langwright.base.errors import UserError
from langwright.base.value_types import fits, spelt
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

DEFAULT = "default"
"""The name of an adapter that needs none."""
LARGEST = 2**31 - 1
"""Of the sizes that a setting may have."""


@dataclass(frozen=True)
class Stored:
    """One tensor of an adapter's file: its name and shape there, how it is read off the model and written to it."""

    key: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    write: Callable[[Tensor], Any]

    @classmethod
    def of(cls, key: str, parameter: Tensor) -> "Stored":
        """A tensor that lies in the file as it lies in memory."""
        return cls(key, tuple(parameter.shape), lambda: parameter.detach(), parameter.data.copy_)


def joined(key: str, place: Place, rows: Sequence[int], pieces: Sequence[Tensor]) -> Stored:
    """A tensor that lies in the file as one fused module has it, and in memory in pieces, one for each of ours.

    rows: the outputs of each of ours.
    """

    def write(tensor: Tensor) -> None:
        for piece, part in zip(pieces, place.split(tensor, rows), strict=True):
            piece.data.copy_(part)

    shape = (sum(rows), *pieces[0].shape[1:])
    return Stored(key, shape, lambda: place.join([piece.detach() for piece in pieces]), write)


class SettingError(UserError):
    """A setting out of its range: the message names its flag; `in_file` gives one that names a field of a file."""

    def __init__(self, setting: str, value: object, wanted: str, flag: str | None = None):
        self.setting, self.value, self.wanted = setting, value, wanted
        super().__init__(f"{flag or f'--{setting}'} {value}: must be {wanted}")

    def in_file(self, where: str, names: Mapping[str, str]) -> UserError:
        """The same for who reads a file. names: of the fields that are called otherwise there."""
        return UserError(f"{where}: {names.get(self.setting, self.setting)} = {self.value!r} must be {self.wanted}")


def check_size(setting: str, size: int, flag: str | None = None) -> None:
    """SettingError for a size that no tensor can have."""
    if size < 1:
        raise SettingError(setting, size, "at least 1", flag)
    if size > LARGEST:
        raise SettingError(setting, size, f"at most {LARGEST}", flag)


def finite(value: float) -> bool:
    """Whether a number can be reckoned with in float32; an integer of any length may be asked."""
    return abs(value) <= torch.finfo(torch.float32).max  # false for NaN


class Method(ABC):
    """The settings of a way to adapt a model: a frozen dataclass. One protocol serves all of them.

    A new method says what it adds (`_add`), what its file holds (`_stored`), and how PEFT spells its settings.
    peft_type: its name in adapter_config.json. mixes: whether several may serve the rows of one batch.
    weights: the file of its tensors.
    merges: whether it changes weights alone, so that it can be worked into them.
    in_peft: settings that adapter_config.json calls otherwise.
    """

    peft_type: ClassVar[str]
    mixes: ClassVar[bool] = True
    weights: ClassVar[str] = "adapter_model.safetensors"
    merges: ClassVar[bool] = True
    in_peft: ClassVar[Mapping[str, str]] = {}

    def attach(self, model: Model, name: str = DEFAULT, seed: int = 0) -> None:
        """Put an adapter on a model and choose it: all that the model had is frozen, the adapter trains.

        seed: of its first numbers. Raises UserError where nothing would train, or the name is taken.
        """
        carried = live(model)
        if not name.isidentifier() or name == BASE or name in carried.methods:
            raise UserError(f'"{name}" cannot be the name of an adapter here: taken, reserved, or not a plain word')
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trained = list(self._add(model, name))
            if not trained:
                raise UserError(f'the adapter "{name}" has nothing to train: its settings match no part of the model')
        except UserError:
            self._remove(model, name)
            raise
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        carried.methods[name], carried.trained[name] = self, trained
        choose(model, name)
        for parameter in trained:
            parameter.requires_grad_(True)

    def detach(self, model: Model, name: str = DEFAULT) -> None:
        """Take the adapter off; after the last one the model is what it was."""
        carried = live(model)
        choose(model, *(n for n in carried.choice.names if n != name))
        self._remove(model, name)
        carried.forget_own(model, name)
        for parameter in carried.trained.pop(name):
            parameter.requires_grad_(False)
        del carried.methods[name]
        if not carried.methods:
            carried.thaw()
            del vars(model)["adapters"]

    def tensors(self, model: Model, name: str = DEFAULT) -> dict[str, Tensor]:
        """What the adapter has learnt, under the names that PEFT gives it."""
        return {stored.key: stored.read() for stored in self._stored(model, name)}

    def load(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take up tensors of a file; UserError naming the one that is missing, unknown, or of another shape.

        where: the file, for the message.
        """
        left = dict(tensors)
        for stored in self._stored(model, name):
            if stored.key not in left:
                raise UserError(f'{where}: tensor "{stored.key}" is missing from the adapter')
            tensor = left.pop(stored.key)
            if tuple(tensor.shape) != stored.shape:
                raise UserError(
                    f'{where}: tensor "{stored.key}" has shape {list(tensor.shape)}, '
                    f"settings and model ask for {list(stored.shape)}"
                )
            stored.write(tensor)
        for key in left:
            if not self._is_of_base(model, key, left[key]):
                raise UserError(f'{where}: tensor "{key}" of the adapter matches nothing in the model')

    def begin_with(self, tokenizer: Tokenizer) -> "Method":
        """The same settings, ready for a model with this tokenizer: a text that an adapter begins as becomes ids."""
        return self

    def check_new(self, model: Model) -> None:  # noqa: B027 (most methods have no such settings)
        """UserError for settings that no new adapter should have on a model, though a file that has them is read."""

    def rate(self, parameter: str) -> float:
        """By how much a parameter's learning rate differs from the run's; by its name in the model."""
        return 1.0

    def extra(self, model: Model, name: str) -> dict[str, Tensor]:
        """What training needs to go on and PEFT does not keep; for a file beside PEFT's."""
        return {}

    def load_extra(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take up what `extra` gave."""
        if tensors:
            raise UserError(f'{where}: tensor "{next(iter(tensors))}" matches nothing in the adapter')

    def settings(self) -> Fields:
        """All settings, as langwright.json keeps them: also those that PEFT has no word for."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_settings(cls, settings: Any, where: str) -> "Method":
        """The reverse of `settings`, out of JSON; UserError naming a setting that is unknown or of the wrong type."""
        kinds = get_type_hints(cls)
        known = {field.name: kinds[field.name] for field in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(settings, dict):
            raise UserError(f"{where}: the settings of the adapter are not a JSON object")
        for name, value in settings.items():
            if name not in known:
                raise UserError(f'{where}: setting "{name}" of the adapter is not known')
            refuse_misfit(name, value, known[name], where)
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})

    @abstractmethod
    def to_peft(self, model: Model) -> Fields:
        """The fields of adapter_config.json, without those that all methods share (`adaptation/folder.py`)."""

    @classmethod
    @abstractmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "Method":
        """The settings in an adapter_config.json; UserError naming the field that is not supported."""

    @abstractmethod
    def _add(self, model: Model, name: str) -> Iterable[nn.Parameter]:
        """Put the adapter's modules beside the model's own; returns what is to train."""

    @abstractmethod
    def _stored(self, model: Model, name: str) -> list[Stored]:
        """The tensors of the adapter's file."""

    def _remove(self, model: Model, name: str) -> None:
        """Take the adapter's modules away again."""
        step_aside(model, name)

    def _is_of_base(self, model: Model, key: str, tensor: Tensor) -> bool:
        """Whether a tensor that the adapter has no use for is a copy of one of the base's, which a file may hold."""
        return False


def trained_names(model: Model) -> list[str]:
    """The parameters that train, by their names in the model."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def refuse_unknown(
    given: Fields, honoured: Iterable[str], only: Mapping[str, Any], inert: Iterable[str], where: str
) -> Fields:
    """The honoured fields of an adapter_config.json; UserError naming one that changes the adapter and is not known.

    only: fields that are understood at one value. inert: fields that change nothing here.
    """
    kept: Fields = {}
    honoured = set(honoured)
    given = {name: value for name, value in given.items() if value is not None}  # null is what was not set
    for name in KINDS.keys() & honoured & given.keys():
        refuse_misfit(name, given[name], KINDS[name], where)
    inert = {*inert, *COMMON}
    for name, value in given.items():
        if name in honoured:
            kept[name] = value
        elif name in only:
            if value != only[name] and (value or only[name]):
                raise UserError(f"{where}: {name} = {value!r} is not supported, only {only[name]!r}")
        elif name not in inert and value:
            raise UserError(f'{where}: field "{name}" = {value!r} of the adapter is not known')
    return kept


def refuse_misfit(name: str, value: Any, kind: Any, where: str) -> None:
    """UserError for a field whose value is not of its type."""
    if not fits(value, kind):
        raise UserError(f"{where}: {name} = {value!r} must be {spelt(kind)}")


KINDS: Mapping[str, Any] = {
    "alpha_pattern": Mapping[str, float],
    "bias": Literal["none", "all", "lora_only"],
    "encoder_dropout": float,
    "encoder_hidden_size": int,
    "encoder_num_layers": int,
    "encoder_reparameterization_type": str,
    "exclude_modules": Targets,
    "feedforward_modules": Targets,
    "init_lora_weights": bool | str,
    "layers_pattern": Targets,
    "layers_to_transform": int | tuple[int, ...],
    "leave_out": tuple[int, ...],
    "lora_alpha": float,
    "lora_dropout": float,
    "modules_to_save": tuple[str, ...],
    "non_linearity": str,
    "num_transformer_submodules": int,
    "num_virtual_tokens": int,
    "prefix_projection": bool,
    "r": int,
    "rank_pattern": Mapping[str, int],
    "reduction_factor": float,
    "scaling": float,
    "target_modules": Targets,
    "use_dora": bool,
    "use_rslora": bool,
}
"""The types of the fields of PEFT and AdapterHub."""

COMMON = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)
"""Fields that all methods share; `adaptation/folder.py` writes them."""
