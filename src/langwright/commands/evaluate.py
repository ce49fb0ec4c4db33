"""langwright evaluate: how well a model predicts a text."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.commands._objective import own_objective, own_reading
from langwright.corpora.labelled import Columns
from langwright.corpora.opening import open_corpus
from langwright.corpora.parts import part_of
from langwright.corpora.splits import split_documents
from langwright.data.shards import Tokens
from langwright.data.streams import whole_documents
from langwright.data.supply import Rows, evaluation_batches
from langwright.data.texts import tokenise
from langwright.data.windows import Windows
from langwright.evaluation.experts import expert_shares
from langwright.evaluation.likelihood import Likelihood, likelihood, print_likelihood
from langwright.evaluation.tasks.opening import open_task
from langwright.evaluation.tasks.scores import intervals, print_scores
from langwright.inference.sampling import Search
from langwright.models.folder import OpenedFolder
from langwright.models.model import Model
from langwright.parts.moe import MoE
from langwright.pipelines.opening import Opening
from langwright.text.tokenizer import Tokenizer
from langwright.viewing.terminal import bars

SHARED_OVER = 256
"""Windows over which choices of experts are counted, evenly spread."""


def evaluate(
    model: Path,
    *,
    text: str | None = None,
    data: str | None = None,
    columns: Columns = Columns(),
    split: str | None = None,
    field: str = "text",
    context: int | None = None,
    batch_size: int = 16,
    experts: bool = False,
    search: Search = Search(),
    max_new_tokens: int | None = None,
    resamples: int = 0,
    opening: Opening = Opening(dtype="auto"),
    json: bool = False,
) -> None:
    """Loss, perplexity and bits per byte of a model on a text; or the metrics of its task on rows with answers.

    Of a model that was pretrained by masks, spans or other noise, the loss on what that noise takes from the text.

    Args:
        model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        text: a corpus as for pretrain: a file, folder, glob or name; every token is predicted once.
        data: rows with answers for a model that was tuned to a task, in place of a text; of a file whose rows have a
            column split the test part, unless another is named, such as FILE#dev.
        columns: which columns of the rows hold what.
        split: measure only the held-out side of this split, such as 5%.
        field: the field or column that holds the text, in corpora that have several.
        context: tokens in a window; the model's own context unless given.
        batch_size: windows in a forward pass.
        experts: also report how the tokens are shared among the experts of each layer.
        search: how the answers of --data are searched, where they are written.
        max_new_tokens: the most tokens of one; as many as the longest that was learnt, unless given.
        resamples: with --data, 95 % intervals of the metrics from this many bootstrap samples of the rows.
        opening: how the model is opened.
        json: print the result as JSON.
    """
    if (text is None) == (data is None):
        raise UserError("give either --text CORPUS or --data FILE")
    check_flag("resamples", resamples, resamples >= 0, "0 or more")
    if data is not None:
        unused = {"split": split, "field": field != "text", "context": context, "experts": experts}
        if flags := [name for name, given in unused.items() if given]:
            raise UserError(f"--{flags[0]}: goes with --text, not with --data")
        task, tuned, words = open_task(model, opening)
        task = task.searched(search, max_new_tokens)
        items = task.reread(part_of(data, "test"), columns, answered=True)
        task.check(tuned, words, items)
        answers = list(task.predict(tuned, words, items, batch_size))
        if task.signature:
            say(task.signature)
        scores: dict[str, Any] = {**task.score(items, answers), "rows": len(items)}
        if resamples:
            scores["intervals"] = intervals(task.score, items, answers, resamples=resamples)
        print_scores(scores, json)
        return
    assert text is not None
    if search != Search() or max_new_tokens is not None or resamples or columns.given:
        raise UserError("--beams, --resamples, --text-field and the like go with --data, not with --text")
    opened = OpenedFolder(model, opening.ignore_field)
    learns = own_objective(opened)
    causal = learns.objective == "causal"
    loaded, tokenizer = opening.open(model)
    if experts and not any(isinstance(module, MoE) for module in loaded.modules()):
        raise UserError(f"--experts: {model} has none")
    with tokens_of(tokenizer, text, split, field) as tokens:

        def noisy(window: int) -> Rows:
            return own_reading(opened, learns, context=window).rows(tokenizer, tokens, 0, training=False)

        def whole(window: int) -> Rows:
            return Windows(tokens, window, once=True)

        result: dict[str, Any] = {**measure(loaded, tokens, context, batch_size, None if causal else noisy).record()}
        seen = (whole if causal else noisy)(context or loaded.window)
        shares = expert_shares(loaded, evaluation_batches(seen, batch_size, SHARED_OVER)) if experts else {}
    if experts:
        result["experts"] = [
            {"stack": stack, "layer": layer, "shares": share.tolist()} for (stack, layer), share in shares.items()
        ]
    print_likelihood(result, text, json)
    for (stack, layer), share in ({} if json else shares).items():
        busiest = float(share.max()) * len(share)
        where = f"layer {layer}" if stack == "body" else f"{stack} layer {layer}"
        print(f"experts of {where}: the busiest has {busiest:.1f} times its part")
        print("\n".join(bars([(f"{i}", part) for i, part in enumerate(share.tolist())], 60)))


def measure(
    model: Model,
    tokens: Tokens,
    context: int | None = None,
    batch_size: int = 16,
    rows: Callable[[int], Rows] | None = None,
) -> Likelihood:
    """The likelihood of a text in windows of `context` tokens; of the model's own context unless given.

    rows: what is predicted of the text in such windows, where that is not every token of it.
    """
    window = model.window if context is None else context
    most = "at least 2" if model.context is None else f"from 2 to the model's context of {model.context}"
    check_flag("context", window, window >= 2 and model.fits(window), most)
    check_flag("batch_size", batch_size, batch_size >= 1, "at least 1")
    if rows is not None:
        return likelihood(model, evaluation_batches(rows(window), batch_size), None)
    if model.body.carries:
        batches = whole_documents(tokens, batch_size, window)
    else:
        batches = evaluation_batches(Windows(tokens, window, once=True), batch_size)
    return likelihood(model, batches, tokens.text_bytes)


@contextmanager
def tokens_of(tokenizer: Tokenizer, text: str, split: str | None, field: str) -> Iterator[Tokens]:
    """The tokens of a corpus, or of the held-out side of its split, in a file that is gone after."""
    corpus = open_corpus(text, field=field)
    documents = corpus if split is None else split_documents(corpus, split)[1]
    with tempfile.TemporaryDirectory(prefix="langwright-") as folder:
        yield tokenise(documents, tokenizer, Path(folder) / "text.tokens")
