"""What a run of fine-tuning is for: a task of a table, or to go on with texts or conversations."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from langwright.adaptation.attached import attached
from langwright.base.console import say, warn
from langwright.base.errors import UserError
from langwright.base.files import read_object
from langwright.commands._objective import objective_record, own_objective, own_reading, predictions
from langwright.commands.evaluate import measure, tokens_of
from langwright.corpora.labelled import Columns
from langwright.corpora.opening import open_corpus
from langwright.data.conversations import chat_supply
from langwright.data.order import Layout
from langwright.data.reading import Continuing, Reading
from langwright.data.shards import Tokens
from langwright.data.supply import Rows, Supply
from langwright.data.texts import text_supply
from langwright.evaluation.in_training import held_out_likelihood
from langwright.evaluation.likelihood import Likelihood, likelihood, print_likelihood
from langwright.evaluation.tasks import TASKS
from langwright.evaluation.tasks.tuning import task_data
from langwright.models.folder import RECORD, OpenedFolder
from langwright.models.model import Model
from langwright.models.untrained import Origin, Untrained
from langwright.objectives.batch import Objective
from langwright.objectives.language import TokenPrediction
from langwright.text.chat_template import set_up_chat
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe, PretrainRecipe
from langwright.training.trainer import Evaluate

Row = dict[str, Any]


class OldText(NamedTuple):
    """What forgetting is measured on: a corpus, and what opens its tokens."""

    spec: str
    tokens: Callable[[], AbstractContextManager[Tokens]]


@runtime_checkable
class Goal(Protocol):
    """What a model is tuned to."""

    @property
    def head(self) -> str | None:
        """What the head is for that is trained; that of the folder if None."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it tells apart, if anything."""

    @property
    def best(self) -> str | None:
        """The metric that chooses which weights are kept, the higher the better; the last ones if None."""

    def fresh(self, name: str) -> tuple[Untrained, Tokenizer]:
        """A new model of a family or preset for these data, and its tokenizer."""

    def fitted(self, opened: Origin, tokenizer: Tokenizer) -> "Goal":
        """The same for a model; UserError where that cannot learn it."""

    def supply(self, tokenizer: Tokenizer, layout: Layout, context: int) -> Supply:
        """The data, in rows of at most `context` tokens."""

    def objective(self) -> Objective:
        """What is lowered."""

    def evaluate(self, supply: Supply) -> Evaluate:
        """What measures the held-out side."""

    def finish(self, trained: Model, before: Callable[[], Model], supply: Supply, context: int) -> Row:
        """What is measured or written at the end, for the record.

        Args:
            trained: the model as it is now.
            before: gives the model that was begun with; the same one, if adapters are all that was trained.
            supply: the data.
            context: see `supply`.
        """

    def record(self) -> Row:
        """What langwright.json says, so that the model is used for it again."""

    def tell(self, record: Row, as_json: bool) -> None:
        """Print what the record of a finished run says of it."""

    def use(self, model: str) -> str:
        """What is said behind the folder that was written: how the model is used, and what else was written."""


def goal(spec: str, out: Path, recipe: FinetuneRecipe) -> Goal:
    """The goal of a recipe on data.

    Args:
        spec: a corpus, conversations, or rows.
        out: the folder of the run.
        recipe: how.

    Raises:
        UserError: Names file and row of what cannot be read.
    """
    if recipe.task in TASKS:
        columns = Columns(recipe.text_field, recipe.second_field, recipe.label_field, recipe.group_field)
        return task_data(TASKS[recipe.task], spec, columns, recipe, out)
    return (Conversations if recipe.task == "chat" else Text)(spec, recipe)


@dataclass(frozen=True)
class Text:
    """To go on with texts by the objective of the model; what is forgotten of another text is measured.

    Args:
        spec: the corpus.
        recipe: how.
        base: the folder of the model to begin with.
        old: the other text; None where there is none.
        learns: the objective.
        reading: given a context, how texts become rows.
    """

    head: ClassVar[None] = None
    labels: ClassVar[tuple[str, ...]] = ()
    best: ClassVar[None] = None
    what: ClassVar[str] = "new text"
    spec: str
    recipe: FinetuneRecipe
    base: Path = Path()
    old: OldText | None = None
    learns: PretrainRecipe = PretrainRecipe()
    reading: Callable[..., Reading] = Continuing

    def fresh(self, name: str) -> tuple[Untrained, Tokenizer]:
        """Another command's."""
        raise UserError(f"new:{name}: langwright pretrain makes new models of text; here --task names what rows teach")

    def fitted(self, opened: Origin, tokenizer: Tokenizer) -> "Text":
        """For models that predict texts."""
        assert isinstance(opened, OpenedFolder)
        learns, old = own_objective(opened), self._old_text(opened.path, tokenizer)
        reading = partial(own_reading, opened, learns)
        return replace(self, base=opened.path, old=old, learns=learns, reading=reading)

    def supply(self, tokenizer: Tokenizer, layout: Layout, context: int) -> Supply:
        """Windows of the text."""
        recipe = self.recipe
        reading = self.reading(context=context, crossing=recipe.crossing)
        return text_supply(self.spec, recipe.split or "0.9", recipe.field, layout, reading, tokenizer)

    def objective(self) -> TokenPrediction:
        """That of the model."""
        return predictions(self.learns, self.recipe.z_loss, self.recipe.compile)

    def evaluate(self, supply: Supply) -> Evaluate:
        """The likelihood of what is held out."""
        return held_out_likelihood(supply)

    def finish(self, trained: Model, before: Callable[[], Model], supply: Supply, context: int) -> Row:
        """What the new text and the old one cost before and after: bits per byte, or nats per token of objectives that
        do not predict every byte.
        """
        base, on = before(), attached(trained)
        chosen, old, words = on.chosen, self.old, supply.tokenizer

        def change(text: str, measured: Callable[[Model], Likelihood]) -> Row:
            on.choose(())
            first = measured(base)
            on.choose(chosen)
            sides = {"before": first, "after": measured(trained)}
            if first.bytes is not None:
                return {"text": text, **{name: side.bits_per_byte for name, side in sides.items()}}
            return {"text": text, "unit": "nats per token", **{name: side.loss for name, side in sides.items()}}

        found = {
            "new": change(self.spec, lambda model: likelihood(model, supply.held_out(None), supply.held_out_bytes))
        }
        if old is not None:
            with old.tokens() as tokens:

                def rows(window: int) -> Rows:
                    return self.reading(context=window).rows(words, tokens, 0, False)

                noisy = None if supply.held_out_bytes is not None else rows
                found["old"] = change(old.spec, lambda model: measure(model, tokens, context, rows=noisy))
        return {"forgetting": found}

    def record(self) -> Row:
        """The objective."""
        return {"objective": objective_record(self.learns)}

    def tell(self, record: Row, as_json: bool) -> None:
        """Likelihood, and what was forgotten."""
        print_likelihood(record["held_out"], f"held-out {self.what}", as_json)
        for name, change in record["forgetting"].items():
            what, unit = self.what if name == "new" else f"{name} text", change.get("unit", "bits per byte")
            say(f"{what}, held out: {change['before']:.4f} {unit} before, {change['after']:.4f} after")

    def use(self, model: str) -> str:
        """Nothing more."""
        return ""

    def _old_text(self, model: Path, tokenizer: Tokenizer) -> OldText | None:
        """What the user names, else the held-out part of the base's own corpus."""
        recipe = self.recipe

        def named(spec: str, split: str | None, field: str) -> OldText:
            return OldText(spec, partial(tokens_of, tokenizer, spec, split, field))

        if recipe.old_text is not None:
            open_corpus(recipe.old_text, field=recipe.field)
            return named(recipe.old_text, None, recipe.field)
        corpus = read_object(model / RECORD, "the record of the model", optional=True).get("corpus")
        if isinstance(corpus, dict) and {"spec", "split", "field", "hash"} <= corpus.keys():
            try:
                if open_corpus(corpus["spec"], field=corpus["field"]).record()["hash"] == corpus["hash"]:
                    return named(corpus["spec"], corpus["split"], corpus["field"])
                reason = f"{corpus['spec']} has changed since"
            except UserError as error:
                reason = str(error)
        else:
            reason = f"{model} does not say what it was trained on"
        warn(f"forgetting is not measured: {reason}; --old-text CORPUS names another corpus")
        return None


class Conversations(Text):
    """To give the assistant's answers in conversations; see `Text`."""

    what = "answers"

    def fitted(self, opened: Origin, tokenizer: Tokenizer) -> Text:
        """For decoders."""
        assert isinstance(opened, OpenedFolder)
        return super().fitted(opened.require(generates=True, one_stack=True), tokenizer)

    def supply(self, tokenizer: Tokenizer, layout: Layout, context: int) -> Supply:
        """Conversations, and the tokenizer with the template."""
        recipe = self.recipe
        # The token table and the head grow only where they are trained.
        template = set_up_chat(tokenizer, recipe.template, recipe.method == "full", where=str(self.base))
        return chat_supply(self.spec, template, layout, context, recipe.split or "5%", recipe.packing)

    def use(self, model: str) -> str:
        """The verb."""
        return f" (langwright chat {model})"
