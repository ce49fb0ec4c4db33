"""A model folder opened for use: its model, quantised or with an adapter where asked for, and its tokenizer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from langwright.adaptation.folder import adapted, tokenizer_folder
from langwright.base.errors import UserError
from langwright.base.files import read_object
from langwright.inference.engine import Engine
from langwright.inference.speculation import DraftModel, PromptLookup, Speculation
from langwright.models.folder import RECORD, OpenedFolder
from langwright.models.model import Model
from langwright.models.surgery.quantise import Kind
from langwright.parts.kept import Cache
from langwright.planning.machine import DTYPES, choose_device, choose_dtype
from langwright.text.opening import load_tokenizer
from langwright.text.tokenizer import Tokenizer, no_tokenizer


@dataclass(frozen=True)
class Loading:
    """How the weights of a model folder are read.

    Args:
        bits: quantise the linear layers to int8, w8a8, int4, int3, nf4 or fp4 while loading; a compressed folder
            needs no flag.
        ignore_field: a field of config.json to pass over although it is not understood.
        dtype: what to compute in; auto is what the model was trained in, or the faster on this machine.
        device: cpu, cuda, mps, or auto for the best at hand.
        cache: how keys and values of earlier tokens are kept: full, in the dtype of the model; int8, in half of that
            memory; none, computed anew each time, for comparison.
    """

    bits: Kind | None = None
    ignore_field: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    device: str = "auto"
    cache: Cache = "full"


@dataclass(frozen=True)
class Opening(Loading):
    """How a model folder is opened: the options that commands share.

    Args:
        adapter: an adapter folder to put on the model, as finetune leaves it, with its template and its stop.
    """

    adapter: Path | None = None

    def open(
        self, folder: Path, generates: bool = False, one_stack: bool = False, texts: bool = True
    ) -> tuple[Model, Tokenizer]:
        """The model in eval mode, and its tokenizer.

        Args:
            folder: a path, or the name of a model of the Hub.
            generates: refuse a model that does not generate text.
            one_stack: refuse an encoder-decoder.
            texts: refuse a model that reads no texts; else its tokenizer is `no_tokenizer`.

        Raises:
            UserError: Naming the file, field or flag that is wrong.
        """
        opened, dtype = OpenedFolder(folder, self.ignore_field).require(generates, one_stack, texts), str(self.dtype)
        device, record = choose_device(self.device), opened.path / RECORD
        if dtype == "auto":  # decided anew, a busy moment would change what a model says
            told = read_object(record, "the record of the model", optional=True).get("dtype")
            dtype = told if told in DTYPES else dtype
        head, labels = self._head()
        quiet = self.adapter is not None
        base = opened.model(device, choose_dtype(dtype, device), head, labels, bits=self.bits, quiet=quiet)
        model = adapted(base, self.adapter, folder)
        if self.cache != "full" and (not model.generates or model.body.carries):
            raise UserError(f"--cache {self.cache}: a {model.family} model keeps no keys and values; leave it out")
        model.body.cache = self.cache
        if opened.family.reads != "text":
            return model, no_tokenizer()
        source = tokenizer_folder(folder, self.adapter)
        tokenizer = load_tokenizer(source, base=folder)
        check_vocabulary(model.vocabulary, tokenizer, source)
        return model, tokenizer

    def speculation(self, lookup: bool, draft: Path | None, tokenizer: Tokenizer, batch: int) -> Speculation | None:
        """What guesses the next tokens of a model, if anything.

        Args:
            lookup: guess from the text itself.
            draft: the folder of a smaller model that guesses, opened in the same way.
            tokenizer: of the model that it guesses for.
            batch: the most texts that are written side by side.
        """
        if draft is None:
            return PromptLookup() if lookup else None
        if lookup:
            raise UserError("--lookup and --draft exclude each other; leave one out")
        model, tokens = replace(self, adapter=None).open(draft, generates=True, one_stack=True)
        if tokens.fingerprint() != tokenizer.fingerprint():
            raise UserError(f"--draft {draft}: its tokens are others than those of the model that it guesses for")
        return DraftModel(Engine(model, tokens, batch=batch))

    def _head(self) -> tuple[str | None, list[str] | None]:
        """The head that an adapter's task needs, and its labels; None for the model's own."""
        path = None if self.adapter is None else self.adapter / RECORD
        record = {} if path is None else read_object(path, "the record of the adapter", optional=True)
        told = record.get("task")
        return (told.get("head"), told.get("labels") or None) if isinstance(told, dict) else (None, None)


def check_vocabulary(vocabulary: int, tokenizer: Tokenizer, source: Path) -> None:
    """A tokenizer whose ids the model does not have belongs to another model. source: its folder."""
    if tokenizer.vocab_size > vocabulary:
        raise UserError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} tokens and the model only {vocabulary}: "
            "they do not belong together"
        )
