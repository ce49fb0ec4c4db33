"""langwright distill: a student that learns from a teacher."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.compression.prune import keep_zeros
from langwright.data.order import Layout
from langwright.data.reading import Continuing
from langwright.data.texts import text_supply
from langwright.evaluation.in_training import held_out_likelihood, sample_of
from langwright.evaluation.likelihood import print_likelihood
from langwright.models.families import FAMILIES
from langwright.models.folder import OpenedFolder
from langwright.models.surgery.quantise import is_quantised
from langwright.models.untrained import Untrained
from langwright.models.weights import weights_checksum
from langwright.objectives.batch import Models
from langwright.objectives.distillation import Distillation, maps_between
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import measure
from langwright.text.opening import load_tokenizer
from langwright.training.checkpoints import decided_dtype
from langwright.training.new_model import new_shape, tokenised
from langwright.training.recipe import NewModelRecipe, TrainingRecipe
from langwright.training.report import write_report
from langwright.training.trainer import Job, Result, close, train

NEW = "new:"


@dataclass(frozen=True)
class DistillRecipe(NewModelRecipe, TrainingRecipe):
    """How a student learns from its teacher. The shape is that of a new student (new:FAMILY).

    Args:
        temperature: what the logits of both are divided by before they are compared.
        soft: weight of the teacher's distribution; the text itself has the rest.
        hidden: weight of the hidden states of the layers; 0 leaves them alone.
        context: tokens in a window; the teacher's own context unless given.
        split: "5%" holds out 5 percent of the documents by content; 0.9 trains on the first 90 percent of the text.
        field: the field or column that holds the text, in corpora that have several.
        crossing: cut windows across documents instead of inside them.
    """

    temperature: float = 2.0
    soft: float = 0.5
    hidden: float = 0.0
    context: int | None = None
    split: str = "0.9"
    field: str = "text"
    crossing: bool = False
    usual_steps: ClassVar[str] = "1 epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("soft", self.soft, 0 <= self.soft <= 1, "between 0 and 1")
        check_flag("hidden", self.hidden, self.hidden >= 0, "0 or more")


def distill(
    teacher: Path,
    student: Path,
    corpus: str,
    out: Path,
    recipe: DistillRecipe = DistillRecipe(),
    extend: bool = False,
    json: bool = False,
) -> int:
    """Train a student on what a teacher says of a text. The same command continues a run that was stopped.

    Weights of a pruned student that are 0 stay so.

    Args:
        teacher: a model folder.
        student: the folder of a smaller model with the teacher's tokenizer, such as a pruned one; or a new model of
            --depth layers, by its family: new:llama.
        corpus: a text, as for pretrain.
        out: the new model folder.
        recipe: how.
        extend: go on with a finished run, for longer.
        json: print the result as JSON.
    """
    started = time.monotonic()
    result = train(out, recipe.parallel, partial(_job, teacher, student, corpus, out, recipe, started), extend)
    return _close(result, out, json)


def _close(result: Result, out: Path, json: bool) -> int:
    if result.held_out is not None:
        print_likelihood(result.held_out, "held-out text", json)
        if not result.already:
            write_report(out)
            say(f"wrote {out} (langwright generate {out}) and {out / 'report.html'}")
    return close(result, out)


def _job(
    teacher: Path, student: Path, corpus: str, out: Path, recipe: DistillRecipe, started: float, rank: int, world: int
) -> Job:
    """The two models looked at, and the text made ready; UserError where they do not go together."""
    knows = OpenedFolder(teacher).require(generates=True, one_stack=True)
    tokenizer, context = load_tokenizer(teacher), recipe.context or knows.config.context or 256
    name, pruned = str(student), dict[str, Any]()
    if name.startswith(NEW):
        family, config = tokenised(*new_shape(name.removeprefix(NEW), recipe, tokenizer.vocab_size, context), tokenizer)
        learns: OpenedFolder | Untrained = Untrained(student, FAMILIES[family], config, FAMILIES[family].rate)
        rate, identity = FAMILIES[family].rate, name
    else:
        learns = opened = OpenedFolder(student).require(generates=True, one_stack=True)
        if load_tokenizer(student).fingerprint() != tokenizer.fingerprint():
            raise UserError(f"{student}: has another tokenizer than {teacher}; what they say cannot be compared")
        if opened.record.get("pruned", {}).get("sparsity") is not None:
            pruned = {"pruned": opened.record["pruned"]}
        rate, identity = 0.1, weights_checksum(opened.path)
    for one in (knows, learns):
        vocabulary, longest = one.config.vocab_size, one.config.context
        if vocabulary != knows.config.vocab_size:
            raise UserError(f"{one.path}: knows {vocabulary} tokens, and {teacher} {knows.config.vocab_size}")
        check_flag("context", context, longest is None or context <= longest, f"at most the {longest} of {one.path}")
    if pruned and recipe.optimizer == "muon":
        raise UserError("--optimizer muon: mixes the columns of a pruned student, whose zeros would not stay")
    knower = weights_checksum(knows.path)
    machine = measure(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)
    layout = Layout(recipe.batch_size, recipe.seed, recipe.compile, rank, world)
    supply = text_supply(
        corpus, recipe.split, recipe.field, layout, Continuing(context, recipe.crossing, False), tokenizer
    )

    def models() -> Models:
        of, to = learns.model(seed=recipe.seed).float(), knows.model()
        if is_quantised(of):
            raise UserError(f"{student}: quantised weights are not trained")
        if pruned:
            keep_zeros(of)
        found: dict[str, nn.Module] = {"model": of, "teacher": to.requires_grad_(False)}
        if recipe.hidden:
            found["maps"] = maps_between(len(of.body.blocks), of.config.width, to.config.width)
        return found

    return Job(
        out=out,
        recipe=recipe,
        origin={"command": "distill", "corpus_spec": corpus, "teacher": knower, "student": identity},
        names={"teacher": str(teacher), "student": name, "corpus": corpus, "tokenizer_fingerprint": str(teacher)},
        models=models,
        objective=lambda ranks: Distillation(recipe.temperature, recipe.soft, recipe.hidden),
        supply=supply,
        learning_rate=recipe.learning_rate or rate / learns.config.width,
        machine=machine,
        started=started,
        evaluate=held_out_likelihood(supply),
        sample=sample_of(supply, context),
        flops=lambda models: training_flops_per_token(models["model"], context),
        record={"context": context, **pruned},
    )
