"""langwright evaluate: how well a model predicts a text."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from langwright.adaptation.folder import adapted, tokenizer_folder
from langwright.base.console import print_json
from langwright.base.errors import UserError
from langwright.base.hub import model_folder
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents
from langwright.data.shards import Tokens
from langwright.data.supply import evaluation_batches
from langwright.data.texts import tokenise
from langwright.data.windows import Windows
from langwright.evaluation.experts import expert_shares
from langwright.evaluation.likelihood import Likelihood, likelihood, print_likelihood
from langwright.models.folder import load_language_model
from langwright.models.model import Model
from langwright.models.surgery.quantise import Kind
from langwright.parts.moe import MoE
from langwright.planning.machine import choose_device, choose_dtype
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.training.checkpoints import decided_dtype
from langwright.viewing.terminal import bars

SHARED_OVER = 256
"""Windows over which choices of experts are counted, evenly spread."""


def evaluate(
    model: Path,
    *,
    text: str,
    split: str | None = None,
    field: str = "text",
    context: int | None = None,
    batch_size: int = 16,
    experts: bool = False,
    adapter: Path | None = None,
    bits: Kind | None = None,
    ignore_field: tuple[str, ...] = (),
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Loss, perplexity and bits per byte of a model on a text, every token predicted once.

    model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
    text: a corpus as for pretrain: a file, folder, glob or name.
    split: measure only the held-out side of this split, such as 5%.
    field: the field or column that holds the text, in corpora that have several.
    context: tokens in a window; the model's own context unless given.
    batch_size: windows in a forward pass.
    experts: also report how the tokens are shared among the experts of each layer.
    adapter: an adapter folder to put on the model, as finetune leaves it.
    bits: quantise the linear layers to int8, int4, nf4 or fp4 while loading; a compressed folder needs no flag.
    ignore_field: a field of config.json to pass over although it is not understood.
    dtype: what to compute in; auto is what the model was trained in, or the faster on this machine.
    device: cpu, cuda, mps, or auto for the best at hand.
    json: print the result as JSON.
    """
    where, chosen = choose_device(device), decided_dtype(model_folder(model), dtype)
    loaded = adapted(load_language_model(model, where, choose_dtype(chosen, where), ignore_field, bits), adapter, model)
    if experts and not any(isinstance(module, MoE) for module in loaded.modules()):
        raise UserError(f"--experts: {model} has none")
    tokenizer = load_tokenizer(tokenizer_folder(model, adapter), base=model)
    result = measure_text(loaded, tokenizer, text, split, field, context, batch_size)
    if not experts:
        print_likelihood(result.record(), text, json)
        return
    with tokens_of(tokenizer, text, split, field) as tokens:
        windows = Windows(tokens, context or loaded.context, once=True)
        shares = expert_shares(loaded, evaluation_batches(windows, batch_size, SHARED_OVER))
    if json:
        shared = [{"layer": one.layer, "shares": one.shares.tolist()} for one in shares]
        print_json({**result.record(), "experts": shared})
        return
    print_likelihood(result.record(), text, json)
    for one in shares:
        print(f"experts of layer {one.layer}: the busiest has {one.busiest:.1f} times its part")
        print("\n".join(bars([(f"{i}", float(share)) for i, share in enumerate(one.shares)], 60)))


def measure_text(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    split: str | None = None,
    field: str = "text",
    context: int | None = None,
    batch_size: int = 16,
) -> Likelihood:
    """The likelihood of a corpus, or of the held-out side of its split."""
    window = model.context if context is None else context
    if not 2 <= window <= model.context:
        raise UserError(f"--context {context}: must be from 2 to the model's context of {model.context} tokens")
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    check_vocabulary(model, tokenizer)
    with tokens_of(tokenizer, text, split, field) as tokens:
        return likelihood(model, evaluation_batches(Windows(tokens, window, once=True), batch_size), tokens.text_bytes)


@contextmanager
def tokens_of(tokenizer: Tokenizer, text: str, split: str | None, field: str) -> Iterator[Tokens]:
    """The tokens of a corpus, or of the held-out side of its split, in a file that is gone after."""
    corpus = open_corpus(text, field=field)
    documents = corpus.documents() if split is None else split_documents(corpus, split)[1]
    with tempfile.TemporaryDirectory(prefix="langwright-") as folder:
        yield tokenise(documents, tokenizer, Path(folder) / "text.tokens")


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """A tokenizer whose ids the model does not have belongs to another model."""
    if tokenizer.vocab_size > model.vocabulary:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model only {model.vocabulary}: "
            "they do not belong together"
        )
