"""The model that a run begins with, and the adapter folder that it ends with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from langwright.adaptation.folder import save_adapter
from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import read_object, write_json
from langwright.base.hub import PREFIX, model_folder, parse_hub_name
from langwright.models.folder import GENERATION, OpenedFolder
from langwright.models.model import Model
from langwright.models.untrained import Origin
from langwright.models.weights import weights_checksum
from langwright.text.opening import load_tokenizer
from langwright.text.tokenizer import Tokenizer, no_tokenizer

Row = dict[str, Any]
BEGAN_WITH = Path("checkpoints/base.json")
"""Below OUT: which model of the Hub a run began with, as in langwright.json."""


@dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    Args:
        origin: what makes the model.
        tokenizer: of the model.
        record: its entry in the record.
        identity: of its weights.
        rate: what divided by its width is the usual learning rate.
    """

    origin: Origin
    tokenizer: Tokenizer
    record: Row
    identity: str
    rate: float

    def note(self, out: Path) -> Callable[[], None]:
        """Writes down which revision of a model of the Hub the run in a folder began with."""
        return lambda: write_json(out / BEGAN_WITH, self.record) if "base_revision" in self.record else None

    def save(self, trained: Model, masters: Mapping[str, Tensor], out: Path, record: Row, tokenizer: Tokenizer) -> None:
        """Write the adapter of a model that began so as a folder.

        Args:
            trained: the model with the adapter on it.
            masters: the numbers of what was trained, in float32, by the names of the parameters.
            out: the folder.
            record: for langwright.json.
            tokenizer: that the model was trained with; saved where it is not the one that it began with.
        """
        for name, master in masters.items():
            trained.get_parameter(name).data = master.detach()
        if tokenizer is not self.tokenizer:  # its template and stop belong to what was tuned
            tokenizer.save(out)
            write_json(out / GENERATION, tokenizer.generation())
        save_adapter(trained, out, base=self.origin.path, record=record)


def existing_model(model: Path, out: Path, rate: float, ignore_field: tuple[str, ...] = ()) -> Beginning:
    """A model folder, or a model of the Hub, that a run begins with.

    A name on the Hub means the revision that the run in `out` began with, however far the Hub has gone since.

    Args:
        model: the folder or the name.
        out: the folder of the run.
        rate: see `Beginning`.
        ignore_field: a field of config.json to pass over although it is not understood.

    Raises:
        UserError: Naming what is missing, broken or not supported.
    """
    name = parse_hub_name(str(model))
    began = {} if name is None else read_object(out / BEGAN_WITH, "the base of the run", optional=True)
    if name is None:
        folder, record = model_folder(model), {"base_folder": str(model)}
    elif began.get("base_folder") == str(name):
        say(f"{name}: {out} began with revision {began['base_revision']}")
        folder, record = model_folder(f"{PREFIX}{name.repository}@{began['base_revision']}"), began
    else:
        folder = model_folder(model)
        record = {"base_folder": str(name), "base_revision": folder.name}
    if out.resolve() == folder.resolve():
        raise UserError(f"{out}: the new model needs a folder of its own")
    opened = OpenedFolder(folder, ignore_field)
    tokenizer = load_tokenizer(folder) if opened.family.reads == "text" else no_tokenizer()
    return Beginning(opened, tokenizer, record, weights_checksum(folder), rate)
