"""What pretrain and finetune share: one training run in a folder, begun, continued or found finished."""

import contextlib
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langwright.base.console import format_seconds, say
from langwright.base.errors import UserError
from langwright.base.files import folder_lock, read_json
from langwright.base.memory import keep_freed_memory
from langwright.commands.supply import StepBatches, Supply
from langwright.data.prefetch import prefetch
from langwright.evaluation.likelihood import Likelihood, likelihood
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.models.folder import RECORD, save_parameters
from langwright.models.model import Model
from langwright.planning.cost import active_parameters, parameters, training_flops_per_token
from langwright.planning.machine import Machine
from langwright.training.budget import measure_step
from langwright.training.checkpoints import Checkpoints
from langwright.training.compiled import compile_blocks, compiler_told, eager
from langwright.training.learner import Learner
from langwright.training.loop import Every, Hooks, Run
from langwright.training.losses import causal
from langwright.training.optimizers import Rates
from langwright.training.plan import Plan
from langwright.training.profile import Profile
from langwright.training.recipe import FREE, TrainingRecipe
from langwright.training.schedule import Schedule
from langwright.training.unfreezing import Unfreezing
from langwright.viewing.live import LiveView

Row = dict[str, Any]
MADE = ("model.safetensors", "adapter_model.safetensors", "adapter.safetensors")
"""What a finished run leaves, one of them."""
SAVING_SECONDS = 2.0
"""Set aside at the end of a budget for writing the model folder."""


@dataclass(frozen=True)
class Job:
    """What is to be trained, where, and on what.

    origin: what began the run besides the recipe (the command, the base model), for its identity and record.
    names: what the user calls that of which the identity has a hash.
    model: makes the model to begin with, in float32 on the CPU. supply: the data. context: tokens in a window.
    learning_rate: the peak. started: `time.monotonic()` of the command's start.
    factor: what the peak of a parameter is multiplied by, given its name.
    unfreezing: which parameters train at which step; all unless given.
    save: writes what was trained, given the model, its masters in float32 and the record; a model folder unless given.
    begin: what else is to be written before the first step, when nothing is refused any more.
    """

    out: Path
    recipe: TrainingRecipe
    origin: Row
    model: Callable[[], Model]
    supply: Supply
    context: int
    learning_rate: float
    machine: Machine
    started: float
    names: Mapping[str, str] = field(default_factory=dict)
    record: Row = field(default_factory=dict)
    factor: Callable[[str], float] = lambda name: 1.0
    save: Callable[[Model, Mapping[str, Tensor], Row], None] | None = None
    begin: Callable[[], None] = lambda: None
    unfreezing: Unfreezing | None = None


@dataclass(frozen=True)
class Result:
    """How a run ended: finished with a measurement of the held-out text, or stopped by a signal."""

    stopped: int | None
    held_out: Likelihood | None
    parameters: int = 0
    already: bool = False


def train(
    job: Job,
    extend: bool = False,
    on_finish: Callable[[Model], Row] = lambda model: {},
    profile: bool = False,
) -> Result:
    """Begin the run, or go on with it, until its plan is done; then measure and write the model folder.

    extend: a longer recipe than the run began with is welcome. on_finish: measures more on the finished model, for
    the record. profile: see where some steps spend their time. A run that is finished already is left as it is.
    """
    model, learner = _begin(job)
    flops = training_flops_per_token(model, job.context)
    with LiveView(_title(job, model, learner), flops, job.machine.gemm_rate) as view, compiler_told():
        run = _open(job, model, learner, view, extend)
        if run.step >= run.plan.steps and _recorded_steps(job.out) == run.step:
            return Result(None, _recorded_measurement(job.out), parameters(model), already=True)
        job.begin()
        stopped, spending = _fit(run, job.recipe.compile, profile)
        if stopped is not None:
            return Result(stopped, None)
        held_out = _measure_held_out(job, model)
        final = _log_end(run, held_out, view)
    with eager():
        more = on_finish(model) | spending
    _save(job, model, learner, _record(job, run, model, final["seconds"], held_out) | more)
    return Result(None, held_out, parameters(model))


def _begin(job: Job) -> tuple[Model, Learner]:
    """The model to begin with, on its device, and what trains it; all that is random follows the seed."""
    recipe = job.recipe
    torch.manual_seed(recipe.seed)
    keep_freed_memory()
    _make_deterministic(recipe, job.machine)
    model = job.model().to(job.machine.device)
    model.body.recompute = recipe.checkpoint
    learner = Learner(
        model,
        causal(recipe.z_loss, recipe.compile),
        job.machine.dtype,
        rates(recipe, job.learning_rate),
        recipe.clip,
        recipe.micro_batch,
        job.factor,
    )
    if recipe.compile:
        compile_blocks(model)
    return model, learner


def _title(job: Job, model: Model, learner: Learner) -> str:
    """What is trained, how large it is, and on what, in one line."""
    size = f"{parameters(model) / 1e6:.1f}M parameters"
    if (active := active_parameters(model)) < parameters(model):
        size += f", {active / 1e6:.1f}M for each token,"
    if (trained := sum(p.numel() for p in learner.masters.parameters)) < parameters(model):
        size = f"{trained:,} trained of {size}"
    return f"{job.out.name}: {size} on {job.machine.describe()}"


def _open(job: Job, model: Model, learner: Learner, view: LiveView, extend: bool) -> Run:
    """The run in the folder: at its beginning, or where its newest whole checkpoint left it; the plan is settled."""
    recipe, out, batches = job.recipe, job.out, job.supply.batches
    run = Run(
        learner=learner,
        batches=lambda step: prefetch(batches.batch, step),
        loader=batches.record(),
        plan=Plan(_steps(recipe, batches), recipe.budget_seconds()),
        schedule=Schedule(recipe.schedule, recipe.warmup, recipe.decay, recipe.final),
        checkpoints=Checkpoints(out / "checkpoints", _identity(job), recipe.keep, asdict(type(recipe)()), job.names),
        metrics=out / "metrics.jsonl",
        every=Every(*(recipe.every(f"{name}_every") for name in ("log", "save", "evaluate", "sample"))),
        hooks=_hooks(job, model, view),
        started=job.started,
    )
    if job.unfreezing is not None:
        run.prepare = partial(job.unfreezing.apply, model)
    run.resume(("steps", "budget") if extend else ())
    if run.plan.budget is not None:
        _plan_budget(run, job, batches, extend)
    return run


def _fit(run: Run, compiled: bool, profile: bool) -> tuple[int | None, Row]:
    """Train until the plan is done: the signal that ended it early, if one did, and what a profile found."""
    measured = Profile()
    if profile:
        measured.watch(run, compiled)
    stopped = run.fit()
    if profile:
        measured.finish()
    return stopped, {"profile": measured.record()} if measured.measured else {}


def _measure_held_out(job: Job, model: Model) -> Likelihood:
    """How well the finished model predicts the held-out text; UserError where it does not at all."""
    model.eval()
    with eager():
        held_out = likelihood(model, job.supply.held_out(None), job.supply.held_out_bytes)
    if not math.isfinite(held_out.nats):
        raise UserError(
            f"{job.out}: training came apart: the loss on held-out text is {held_out.nats}; no model is written; "
            "begin again in another folder with a lower --learning-rate"
        )
    return held_out


def _log_end(run: Run, held_out: Likelihood, view: LiveView) -> Row:
    """Write the last line of the metrics, and show it; returns it."""
    row = {
        "step": run.step,
        "tokens": run.tokens,
        "seconds": round(time.monotonic() - run.started, 3),
        "validation_loss": held_out.loss,
        "validation_bits_per_byte": held_out.bits_per_byte,
    }
    with open(run.metrics, "a") as file:
        file.write(json.dumps(row) + "\n")
    view.row(row)
    return row


def _save(job: Job, model: Model, learner: Learner, record: Row) -> None:
    """Write what was trained in the float32 of its masters, as the job wishes or as a model folder."""
    masters, supply = learner.masters.named, job.supply
    if job.save is not None:
        job.save(model, masters, record)
        return
    whole = {**dict(model.named_parameters()), **masters}
    save_parameters(whole, model, supply.tokenizer, job.out, record, supply.generation)


def _record(job: Job, run: Run, model: Model, seconds: float, held_out: Likelihood) -> Row:
    """What langwright.json tells of a finished run."""
    return {
        **job.origin,
        **job.record,
        "recipe": asdict(job.recipe),
        "corpus": job.supply.record,
        "machine": job.machine.describe(),
        "gemm_rate": job.machine.gemm_rate,
        "dtype": str(job.machine.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "parameters": parameters(model),
        "trained_parameters": sum(p.numel() for p in run.learner.masters.parameters),
        "flops_per_token": training_flops_per_token(model, job.context),
        "context": job.context,
        "steps": run.step,
        "tokens": run.tokens,
        "epochs": round(run.step * job.recipe.batch_size / job.supply.batches.windows, 3),
        "seconds": seconds,
        "events": run.history,
        "held_out": held_out.record(),
    }


def rates(recipe: TrainingRecipe, learning_rate: float) -> Rates:
    """The optimizers' settings that a recipe asks for."""
    return Rates(
        recipe.optimizer,
        learning_rate,
        recipe.muon_learning_rate,
        recipe.embedding_learning_rate,
        recipe.head_learning_rate,
        (recipe.beta1, recipe.beta2),
        recipe.weight_decay,
        recipe.optimizer_bits,
        recipe.optimizer_host,
    )


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold the folder of a run against other processes. UserError, and nothing touched, when it is not one of ours."""
    made = [out / name for name in MADE if (out / name).exists()]
    if made and not (out / "checkpoints").is_dir():
        raise UserError(f"{out}: holds a model or adapter that this command did not make here; choose another folder")
    with folder_lock(out, "a training run"):
        yield


def close(result: Result, out: Path) -> int:
    """Tell how a run ended and give the exit code: 0, or 128 + the signal that stopped it."""
    if result.stopped is not None:
        name = signal.Signals(result.stopped).name
        say(f"stopped by {name}; the work is saved: run the same command again to go on")
        return 128 + result.stopped
    if result.already:
        say(f"{out} is finished already; --extend with a longer --steps or --budget goes on from here")
    return 0


def read_metrics(out: Path) -> list[Row]:
    """The rows of metrics.jsonl."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return []


def _identity(job: Job) -> Row:
    """What a continued run must share with its beginning, field by field."""
    recipe = {name: value for name, value in asdict(job.recipe).items() if name not in FREE}
    return {
        **{name: value for name, value in job.origin.items() if name != "corpus_spec"},  # its hash counts, not its path
        **recipe,
        "corpus": job.supply.record["hash"],
        "tokenizer_fingerprint": job.supply.tokenizer.fingerprint(),
        "dtype": str(job.machine.dtype).removeprefix("torch."),
        "device": job.machine.device.type,
        "threads": torch.get_num_threads(),
    }


def _steps(recipe: TrainingRecipe, batches: StepBatches) -> int:
    length = recipe.length()
    per_step = {"steps": 1.0, "tokens": batches.tokens_per_step, "epochs": recipe.batch_size / batches.windows}
    return max(1, round(length.value / per_step[length.unit]))


def _plan_budget(run: Run, job: Job, batches: StepBatches, extend: bool) -> None:
    """Turn the seconds of a budget into steps: measured at the beginning, known from before when a run goes on."""
    assert run.plan.budget is not None
    if run.step:
        seconds = (time.monotonic() - run.started) / run.step
        run.closing = _closing(job, batches, seconds)
        if extend:
            run.fit_to_budget(seconds, run.closing)
        return
    seconds = measure_step(run.learner, prefetch(batches.batch, 0))
    run.fit_to_budget(seconds, _closing(job, batches, seconds))
    if run.plan.steps == 0:
        spent = format_seconds(time.monotonic() - run.started)
        raise UserError(
            f"--budget {job.recipe.budget}: {spent} went into preparation and a step takes {seconds:.2f} s; give more"
        )


def _closing(job: Job, batches: StepBatches, step_seconds: float) -> float:
    """Seconds from the last step to the end: measuring the held-out text (a third of training) and saving."""
    return job.supply.held_out_tokens / batches.tokens_per_step * step_seconds / 3 + SAVING_SECONDS


def _hooks(job: Job, model: Model, view: LiveView) -> Hooks:
    def evaluate(stopped: Callable[[], bool]) -> Row:
        windows = itertools.takewhile(lambda _: not stopped(), job.supply.held_out(job.recipe.validation_windows))
        with eager():
            measured = likelihood(model, windows, 1)
        return {} if stopped() else {"validation_loss": measured.loss}

    def sample() -> str:
        model.eval()
        with eager():
            if job.supply.sample is not None:
                return job.supply.sample(model)
            limit = min(80, model.context - 1)
            return complete(model, job.supply.tokenizer, [""], Sampling(0.8, top_k=50), max_new_tokens=limit)[0].text

    return Hooks(evaluate, sample, view.row, view.sample, view.event)


def _make_deterministic(recipe: TrainingRecipe, machine: Machine) -> None:
    """Compiled and GPU kernels are reproducible only when asked to be (`planning.machine.measure` told cuBLAS)."""
    exact = recipe.exact and (recipe.compile or machine.device.type == "cuda")
    torch.use_deterministic_algorithms(exact)
    # Filling new memory with NaN finds faults in kernels, not in runs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _recorded_steps(out: Path) -> int | None:
    """The steps of the model that lies in a folder, if it was written to its end."""
    if not (out / RECORD).exists():
        return None
    steps: int | None = read_json(out / RECORD, "the record of the run").get("steps")
    return steps


def _recorded_measurement(out: Path) -> Likelihood:
    """What was measured when the model that lies in a folder was written."""
    held_out = read_json(out / RECORD, "the record of the run")["held_out"]
    return Likelihood(held_out["loss_nats_per_token"] * held_out["tokens"], held_out["tokens"], held_out["bytes"])
