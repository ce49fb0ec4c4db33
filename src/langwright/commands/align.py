"""langwright align: from what people prefer to a model that writes it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from langwright.adaptation.folder import is_adapter
from langwright.alignment.best_of_n import BEST, PAIRS
from langwright.alignment.methods import METHODS
from langwright.alignment.recipe import AlignRecipe, check_used
from langwright.alignment.setup import Setup
from langwright.base.console import print_json, say
from langwright.base.files import read_json
from langwright.evaluation.in_training import sample_of
from langwright.evaluation.tasks.scores import print_scores
from langwright.models.folder import RECORD
from langwright.training.report import write_report
from langwright.training.trainer import Job, close, train


def align(
    model: Path,
    data: str,
    out: Path,
    recipe: AlignRecipe = AlignRecipe(),
    extend: bool = False,
    profile: bool = False,
    json: bool = False,
) -> int:
    """Let a model learn from what people prefer: a reward model, or a policy. The same command goes on with a run.

    Args:
        model: the folder of the model to begin with, or a model of the Hub: hf:owner/name.
        data: the rows, .jsonl, .json, .csv or .parquet: prompt with chosen and rejected, or what else the method learns
            from.
        out: the new model folder, or with --adapter the new adapter folder.
        recipe: how.
        extend: go on with a finished run, for longer.
        profile: write the share of time of each part of a training step into the report.
        json: print the result as JSON.
    """
    check_used(recipe, {name: method.settings for name, method in METHODS.items()})
    method = METHODS[recipe.method]
    if method.job is None:
        assert method.writes is not None
        _tell(method.writes(Setup(model, data, out, recipe)), out, json)
        return 0
    job_of = method.job

    def job(rank: int, world: int) -> Job:
        setup = Setup(model, data, out, recipe, rank, world)
        made = job_of(setup)
        return replace(made, sample=sample_of(made.supply, setup.context))

    result = train(out, recipe.parallel, job, extend, profile)
    if result.held_out is not None:
        record = read_json(out / RECORD, "the record of the run")
        print_scores(record["held_out"], json)
        if not result.already:
            write_report(out)
            talks = "chat {}" if record["corpus"].get("format") == "chat" else "generate {}"
            use = (method.use or talks).format(f"{model} --adapter {out}" if is_adapter(out) else out)
            say(f"wrote {out} (langwright {use}) and {out / 'report.html'}")
    return close(result, out)


def _tell(told: dict[str, Any], out: Path, as_json: bool) -> None:
    """Say what best of n came to."""
    if as_json:
        print_json({name: value for name, value in told.items() if name != "settings"})
        return
    worth = f"reward {told['reward']:.4f}, standard deviation {told['deviation']:.4f}" + (
        f", gold {told['gold']:.4f}" if "gold" in told else ""
    )
    print(f"{told['prompts']:,} prompts, {told['n']} answers each: {worth}")
    for point in told["curve"][1:]:
        gold = f", gold {point['gold']:.4f}" if "gold" in point else ""
        print(f"best of {point['n']}: reward {point['reward']:.4f}{gold}, KL at most {point['kl']:.3f} nats an answer")
    say(f"kept {told['kept']:,} answers: {out / BEST} (langwright finetune MODEL {out / BEST} NEW --task chat)")
    say(f"{told['pairs']:,} pairs of best and worst: {out / PAIRS} (langwright align MODEL {out / PAIRS} NEW)")
