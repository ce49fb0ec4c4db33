"""One training run in a folder: begun, continued or found finished."""

import contextlib
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langwright.base.allocator import keep_freed_memory
from langwright.base.console import format_seconds, say
from langwright.base.errors import UserError
from langwright.base.files import check_lock, folder_lock, read_object
from langwright.data.supply import Supply
from langwright.models.folder import RECORD, save_model
from langwright.objectives.batch import Models, Objective
from langwright.planning.cost import active_parameters, parameters
from langwright.planning.machine import Machine
from langwright.training.checkpoints import Checkpoints
from langwright.training.compiled import compiler_errors
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.profile import Profile
from langwright.training.progress import Progress
from langwright.training.ranks import Parallel, Ranks, open_ranks
from langwright.training.recipe import FREE, TrainingRecipe
from langwright.training.unfreezing import Unfreezing
from langwright.viewing.live import LiveView

Row = dict[str, Any]
MODEL_FILES = ("model.safetensors", "adapter_model.safetensors", "adapter.safetensors")
"""What a finished run leaves, one of them."""
SAVING_SECONDS = 2.0
"""Set aside at the end of a budget for writing the model folder."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured on held-out data.

    Args:
        metrics: for metrics.jsonl; empty when the measurement was broken off.
        record: for langwright.json, units in the names.
    """

    metrics: dict[str, float]
    record: Row


Evaluate = Callable[[Models, int | None, Callable[[], bool]], Evaluation]
"""(models, at most so many windows, whether to break off) -> what was measured."""
Sample = Callable[[Models], str]
"""Something that the model writes, for the live view."""


@dataclass(frozen=True)
class Job:
    """What is to be trained, where, and on what.

    Args:
        out: the folder of the run.
        recipe: how.
        origin: what began the run besides the recipe (the command, the base model), for its identity and record.
        models: makes the models to begin with, in float32 on the CPU.
        objective: what is lowered, given the ranks.
        supply: the data.
        learning_rate: the peak.
        machine: where it runs, and in which dtype.
        started: `time.monotonic()` of the command's start.
        evaluate: measures the held-out data.
        sample: lets the model write.
        flops: of a token in training, given the models.
        names: what the user calls that of which the identity has a hash.
        record: more for langwright.json.
        factor: what the peak of a parameter is multiplied by, given its name.
        save: writes what was trained, given the models, their masters in float32 and the record; a model folder unless
            given.
        on_finish: measures more on the finished models, for the record.
        begin: what else is to be written before the first step, when nothing is refused any more.
        unfreezing: which parameters train at which step; all unless given.
        best: the metric, the higher the better but for validation_loss, that chooses which weights are kept; the last
            ones unless given.
        patience: end after so many evaluations in a row without a better one.
    """

    out: Path
    recipe: TrainingRecipe
    origin: Row
    models: Callable[[], Models]
    objective: Callable[[Ranks], Objective]
    supply: Supply
    learning_rate: float
    machine: Machine
    started: float
    evaluate: Evaluate
    sample: Sample | None = None
    flops: Callable[[Models], int] = lambda models: 0
    names: Mapping[str, str] = field(default_factory=dict)
    record: Row = field(default_factory=dict)
    factor: Callable[[str], float] = lambda name: 1.0
    save: Callable[[Models, Mapping[str, Tensor], Row], None] | None = None
    on_finish: Callable[[Models], Row] = lambda models: {}
    begin: Callable[[], None] = lambda: None
    unfreezing: Unfreezing | None = None
    best: str | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Result:
    """How a run ended: finished with a record of the held-out measurement, or stopped by a signal."""

    stopped: int | None
    held_out: Row | None
    already: bool = False


class Trainer:
    """One run: its identity, resumption, checkpoints, log and record.

    Args:
        job: what is to be trained.
        ranks: the processes that share it; the first one measures and writes.
        extend: a longer recipe than the run began with is welcome.
        profile: see where some steps spend their time.
    """

    def __init__(self, job: Job, ranks: Ranks = Ranks(), extend: bool = False, profile: bool = False):
        self.job = job = replace(job, machine=ranks.agree(job.machine))  # dtypes and rates are measured by the clock
        self.ranks, self.extend, self.profile = ranks, extend, profile
        recipe = job.recipe
        torch.manual_seed(recipe.seed)
        keep_freed_memory()
        # Compiled and GPU kernels are reproducible only when asked to be (`planning.machine.measure` sets up cuBLAS).
        torch.use_deterministic_algorithms(recipe.exact and (recipe.compile or job.machine.device.type == "cuda"))
        # Filling new memory with NaN finds faults in kernels, not in runs.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        models = {name: model.to(job.machine.device) for name, model in job.models().items()}
        if recipe.checkpoint:
            for model in models.values():
                if hasattr(model, "body"):
                    model.body.recompute = True
        given = replace(recipe, learning_rate=job.learning_rate)
        self.learner = Learner(models, job.objective(ranks), job.machine.dtype, given, job.factor, ranks)
        self.models, self.model = self.learner.models, self.learner.model
        if recipe.compile:
            for block in self.model.body.blocks:  # they share their code, so one compilation serves all
                block.compile(dynamic=False)
        if ranks.rank:
            torch.manual_seed(recipe.seed + ranks.rank)  # dropout of its own

    def train(self) -> Result:
        """Begin the run, or go on with it, until its plan is done; then measure and write what was trained.

        A run that is finished already is left as it is.
        """
        job = self.job
        with LiveView(self._title(), job.flops(self.models), job.machine.gemm_rate) as view, compiler_errors():
            run = self._open(view)
            record = read_object(job.out / RECORD, "the record of the run", optional=True)
            if "steps" in record and "held_out" not in record:
                raise UserError(f"{job.out / RECORD}: is not the record of a run; move it away to go on")
            if run.progress.step >= run.progress.steps and record.get("steps") == run.progress.step:
                return Result(None, None if self.ranks.rank else record["held_out"], already=True)
            with self.ranks.first():
                if not self.ranks.rank:
                    job.begin()
            profile = None
            if self.profile:
                profile = Profile(self.model, run.progress.steps - run.progress.step, job.recipe.compile)
                run.hooks = replace(run.hooks, around_step=profile.step)
            stopped = run.fit()
            spent = profile.record() if profile else {}
            if stopped is not None or self.ranks.rank:
                return Result(stopped, None)
            with self.learner.measuring():
                held_out = self._finish(run)
            record = self._record(run.progress, held_out, round(run.elapsed, 3))
        with self.learner.measuring():
            record |= job.on_finish(self.models)
        record |= {"profile": spent} if spent else {}
        check_lock(job.out)
        masters = self.learner.masters.named  # in float32
        if job.save is not None:
            job.save(self.models, masters, record)
        else:
            weights = {**dict(self.model.named_parameters()), **masters}
            save_model(self.model, job.supply.tokenizer, job.out, record, weights)
        return Result(None, held_out)

    def _title(self) -> str:
        """What is trained, how large it is, and on what, in one line."""
        count = parameters(self.model)
        size = f"{count / 1e6:.1f}M parameters"
        if (active := active_parameters(self.model)) < count:
            size += f", {active / 1e6:.1f}M for each token,"
        if (trained := self.learner.trained) < count:
            size = f"{trained:,} trained of {size}"
        return f"{self.job.out.name}: {size} on {self.job.machine.describe()}"

    def _open(self, view: LiveView) -> Run:
        """The run in the folder: at its beginning, or where its newest whole checkpoint left it."""
        job, recipe = self.job, self.job.recipe
        identity, defaults = self._identity(), asdict(type(recipe)())
        checkpoints = Checkpoints(job.out / "checkpoints", identity, recipe.keep, defaults, job.names)
        hooks = Hooks(
            evaluate=lambda stopped: job.evaluate(self.models, recipe.validation_windows, stopped).metrics,
            sample=partial(job.sample, self.models) if job.sample else None,
            on_row=view.row,
            on_sample=view.sample,
            on_event=view.event,
            drawn=job.supply.drawn,
            on_step=partial(job.unfreezing.apply, self.model) if job.unfreezing else lambda step: None,
        )
        run = Run(
            self.learner, job.supply.batches, checkpoints, self._steps(), hooks, job.started, job.best, job.patience
        )
        run.resume(("steps", "budget") if self.extend else ())
        if run.budget is not None:
            self._plan_budget(run, run.budget)
        return run

    def _steps(self) -> int:
        length, batches, recipe = self.job.recipe.length(), self.job.supply.batches, self.job.recipe
        if length.unit != "epochs":
            return max(1, round(length.value / (batches.tokens_per_step if length.unit == "tokens" else 1)))
        exact = round(length.value * batches.windows / recipe.batch_size, 6)
        steps = math.ceil(exact)
        if steps != exact and recipe.budget_seconds() is None:
            say(f"{length} of {batches.windows:,} rows are rounded up to {steps:,} steps")
        return steps

    def _identity(self) -> Row:
        """What a continued run must share with its beginning, field by field."""
        job = self.job
        recipe = {name: value for name, value in asdict(job.recipe).items() if name not in FREE}
        return {
            **{name: value for name, value in job.origin.items() if name != "corpus_spec"},  # its hash counts
            **recipe,
            "corpus": job.supply.record["hash"],
            "tokenizer_fingerprint": job.supply.tokenizer.fingerprint(),
            "dtype": str(job.machine.dtype).removeprefix("torch."),
            "device": job.machine.device.type,
            "threads": torch.get_num_threads(),
        }

    def _plan_budget(self, run: Run, budget: float) -> None:
        """Turn the seconds of a budget into steps: measured at the beginning, known from before when a run goes on."""
        now, supply = run.progress, self.job.supply
        seconds = self.ranks.agree(run.elapsed / now.step) if now.step else run.measure_step()
        # Measuring the held-out text takes a third of training on it.
        run.closing = supply.held_out_tokens / supply.batches.tokens_per_step * seconds / 3 + SAVING_SECONDS
        if self.extend or not now.step:
            now.fit(budget, self.ranks.agree(run.elapsed), seconds, run.closing)
        if now.steps == 0:
            raise UserError(
                f"--budget {self.job.recipe.budget}: {format_seconds(run.elapsed)} went into preparation and a step "
                f"takes {seconds:.2f} s; give more"
            )

    def _finish(self, run: Run) -> Row:
        """Measure the held-out data and write the last line of the metrics; UserError where the loss is not finite."""
        held_out = self.job.evaluate(self.models, None, lambda: False)
        if run.take_best(held_out.metrics):
            held_out = self.job.evaluate(self.models, None, lambda: False)
        if not all(map(math.isfinite, held_out.metrics.values())):
            raise UserError(
                f"{self.job.out}: training came apart: {held_out.metrics}; no model is written; begin again in another "
                "folder with a lower --learning-rate"
            )
        with open(run.metrics, "ab") as metrics:
            run.log(metrics, **held_out.metrics)
        return held_out.record

    def _record(self, now: Progress, held_out: Row, seconds: float) -> Row:
        """What langwright.json says of a finished run."""
        job = self.job
        return {
            **job.origin,
            **job.record,
            "recipe": asdict(job.recipe),
            "corpus": job.supply.record,
            "machine": job.machine.describe(),
            "gemm_rate": job.machine.gemm_rate,
            "dtype": str(job.machine.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "parameters": parameters(self.model),
            "trained_parameters": self.learner.trained,
            "flops_per_token": job.flops(self.models),
            "steps": now.step,
            "tokens": now.tokens,
            "epochs": round(now.step * job.recipe.batch_size / job.supply.batches.windows, 3),
            "seconds": seconds,
            **job.supply.drawn(now.step),
            "events": now.history,
            "held_out": held_out,
        }


def train(
    out: Path, parallel: Parallel, prepare: Callable[[int, int], Job], extend: bool = False, profile: bool = False
) -> Result:
    """Claim the folder of a run, and train, on all ranks. UserError, and nothing touched, where it is not one of ours.

    Args:
        out: the folder.
        parallel: how ranks share the run.
        prepare: makes the job from rank and world.
        extend: see `Trainer`.
        profile: see `Trainer`.
    """
    with open_ranks(parallel) as ranks, contextlib.ExitStack() as claim:
        with ranks.first():  # what it keeps (tokens, tokenizers) is there for the others
            if not ranks.rank:
                if not (out / "checkpoints").is_dir() and any((out / name).exists() for name in MODEL_FILES):
                    raise UserError(f"{out}: holds a model or adapter that this command did not make; choose another")
                claim.enter_context(folder_lock(out, "a training run"))
            job = prepare(ranks.rank, ranks.world)
        return Trainer(job, ranks, extend, profile).train()


def close(result: Result, out: Path) -> int:
    """Say how a run ended and give the exit code: 0, or 128 + the signal that stopped it."""
    if result.stopped is not None:
        name = signal.Signals(result.stopped).name
        say(f"stopped by {name}; the work is saved: run the same command again to go on")
        return 128 + result.stopped
    if result.already:
        say(f"{out} is finished already; --extend with a longer --steps or --budget goes on from here")
    return 0
