"""A model folder opened: its small files read and checked once, and the model made of its weights."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch

from langwright.base.errors import UserError, suggest
from langwright.base.files import check_files, read_object, read_record
from langwright.base.gguf import is_gguf, read_gguf
from langwright.base.hub import model_folder
from langwright.models import tasks
from langwright.models.families import MODEL_TYPES
from langwright.models.family import Fields
from langwright.models.folder import sentences
from langwright.models.folder.reading import read_weights
from langwright.models.gguf.describing import config_fields
from langwright.models.gguf.tensors import stored_weights
from langwright.models.initialise import normal
from langwright.models.model import Model
from langwright.models.surgery import quantise
from langwright.parts.heads import EmbeddingHead

CONFIG, GENERATION, RECORD = "config.json", "generation_config.json", "langwright.json"
ADAPTER_CONFIG = "adapter_config.json"
"""What a folder that holds an adapter alone has instead."""
FORMAT_VERSION = 1


class OpenedFolder:
    """A model folder whose files are read once, however often a model is made of it.

    Args:
        folder: a path, also of a GGUF file, or `hf:owner/name[@revision]`, which is fetched into the cache of the Hub,
            the weights when a model is first made of them; see `base/hub.py`.
        ignore_fields: fields of config.json to pass over although the family does not understand them.

    Raises:
        UserError: naming the file and the field that is wrong.

    `path` is the folder, `fields` config.json as it is, `family` the row of the family it names, `config` its config.
    """

    def __init__(self, folder: Path | str, ignore_fields: Collection[str] = ()):
        self.named, self.path = folder, model_folder(folder, weights=False)
        if is_gguf(self.path):
            file = read_gguf(self.path)
            self.where, self.fields = str(self.path), config_fields(file)
            stored_weights(file)  # which checks them
        else:
            self.where, self.fields = str(self.path / CONFIG), self._read_config()
        self.family = MODEL_TYPES[self.fields["model_type"]]
        self.config = self.family.parse(self.fields, self.where, {*ignore_fields, quantise.FIELD})

    @cached_property
    def layout(self) -> sentences.Layout | None:
        """The layout of sentence-transformers, where the folder has it."""
        return sentences.read(self.path)

    @cached_property
    def task(self) -> str:
        """What the head in the folder is for, by `architectures[0]`; UserError where that is not built here."""
        family = self.family
        known = {tasks.architecture(family, task): task for task in (*family.heads, family.task)}
        known |= dict.fromkeys(family.also, family.task)
        named = (self.fields.get("architectures") or [family.architecture])[0]
        task = {name.lower(): task for name, task in known.items()}.get(named.lower())  # MPT's own files shout
        if task is None:
            heads = f"head= chooses another of {', '.join(tasks.tasks(family))}"
            raise UserError(f"{self.where}: architecture {named} is not one of {', '.join(sorted(known))}; {heads}")
        return tasks.EMBEDDING if task == family.task and self.layout is not None else task

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels of the head in the folder: `id2label`, or as many as `num_labels` without names, or two; none
        where it tells none apart.
        """
        if not tasks.is_labelled(self.family, self.task):
            return ()
        fields = self.fields
        names = fields.get("id2label")
        if names is None:
            return tuple(f"LABEL_{i}" for i in range(fields.get("num_labels") or fields.get("_num_labels") or 2))
        try:
            by_id = {int(i): str(name) for i, name in names.items()}
            return tuple(by_id[i] for i in range(len(by_id)))
        except (AttributeError, KeyError, ValueError):
            raise UserError(f"{self.where}: id2label must give a name to each number from 0, not {names!r}") from None

    @cached_property
    def scheme(self) -> quantise.Scheme | None:
        """How the weights are quantised; None where they are floats."""
        return quantise.read_scheme(self.fields, self.where)

    @cached_property
    def record(self) -> Fields:
        """langwright.json; empty where there is none. Read, and the weights compared with its checksums, once."""
        path = self.path / RECORD
        if not path.exists():
            return {}
        record = read_record(path, "the record of the model", FORMAT_VERSION)
        check_files(path, record, only=".safetensors")
        return record

    def model(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        head: str | None = None,
        labels: Sequence[str] | None = None,
        seed: int = 0,
        bits: int | str | quantise.Scheme | None = None,
        on_packed: quantise.OnPacked | None = None,
        quiet: bool = False,
        filler: quantise.Fills | None = None,
    ) -> Model:
        """The model in eval mode.

        Args:
            device: where its parameters are.
            dtype: of its parameters; that of the file unless given.
            head: "language", "masked", "pretraining", "sequence", "token", "span", "embedding" or "hidden", as far as
                the family has it; the one that `architectures` names unless given. Tensors of other heads are listed
                and dropped.
            labels: the classes of a new classifying head.
            seed: of the parameters of a new head, which are listed.
            bits: 8, 4, 3, the name of a kind such as "nf4", or a scheme quantises the linear layers while loading,
                tensor by tensor; None for a folder that holds them so.
            on_packed: as for `quantise.Filler`.
            quiet: list neither what is dropped nor what is new: an adapter brings the head.
            filler: fills parameters in its own way; what `bits` asks for unless given.

        Raises:
            UserError: naming the file and the field or tensor that is wrong.
        """
        own = None
        with suppress(UserError):  # a head that is not built here, which matters where no other is asked for
            own = self.task
        task = head or self.task
        known = self.labels if task == own else ()
        fresh = task != own or (labels is not None and tuple(labels) != known)
        scheme = self._scheme(bits)
        if filler is None and scheme is not None:
            filler = quantise.Filler(scheme, self.scheme is not None, dtype, device, on_packed)
        model_folder(self.named)
        _ = self.record  # the weights are compared with its checksums
        model = self._build(task, labels or known)
        if fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if self.family.is_encoder_decoder:
                    self.family.initialise(model)
                elif model.head is not None:
                    normal(model.head, self.config.initializer_range)
        read_weights(model, self.family, self.path, device, dtype, fresh, labels is not None, filler, quiet)
        return model.eval()

    def require(self, generates: bool = False, one_stack: bool = False, texts: bool = True) -> "OpenedFolder":
        """The folder itself; UserError where its model does not generate text, has an encoder beside its body, or
        reads no texts.
        """
        if texts and self.family.reads != "text":
            raise UserError(
                f"{self.path}: reads {self.family.reads}, not text; langwright predict and evaluate --data are for it"
            )
        if one_stack and self.family.is_encoder_decoder:
            raise UserError(
                f"{self.path}: {self.family.name} is an encoder-decoder; a model of one stack is needed here"
            )
        if generates and self.task != "language":
            told = f'a {self.family.name} model with the head "{self.task}" does not continue texts'
            raise UserError(f"{self.path}: {told}; this needs a causal language model such as gpt2 or llama")
        return self

    def _read_config(self) -> Fields:
        path = self.path / CONFIG
        if (self.path / ADAPTER_CONFIG).exists() and not path.exists():
            raise UserError(f"{self.path}: is an adapter; name the model it belongs to, and --adapter {self.path}")
        fields = read_object(path, "the model's config")
        name = str(fields.get("model_type"))
        if name not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise UserError(f'{path}: model_type "{name}" is not supported, only {known}{suggest(name, MODEL_TYPES)}')
        return fields

    def _build(self, task: str, labels: Sequence[str]) -> Model:
        model = tasks.build(self.family, self.config, task, labels)
        if self.layout is not None and task == tasks.EMBEDDING:
            model.head = EmbeddingHead(self.layout.pooling, self.layout.normalise)
            model.context = min(model.context, self.layout.longest or model.context)
        return model

    def _scheme(self, bits: int | str | quantise.Scheme | None) -> quantise.Scheme | None:
        """How the model's weights are to be quantised; None where the folder holds floats and floats are asked for."""
        asked = quantise.scheme_of(bits) if isinstance(bits, int | str) else bits
        if self.scheme and asked and asked.kind != self.scheme.kind:
            told = f"the weights are in {self.scheme.kind} already, and bits = {bits!r} would round them again"
            raise UserError(f"{self.where}: {told}; leave it out")
        return self.scheme or asked
