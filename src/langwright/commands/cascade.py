"""langwright cascade: several models that answer together for less than the best alone."""

import hashlib
import json as json_module
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from langwright.base.console import print_json, progress, say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import refuse_file, write_atomic
from langwright.commands.finetune import NEW, TuningRecipe
from langwright.commands.finetune import run as train_classifier
from langwright.corpora.labelled import Columns
from langwright.corpora.pairs import Pair, open_pairs
from langwright.pipelines.cascade import (
    CLASSIFIER,
    RECORD,
    RIGHT,
    WRONG,
    Asking,
    Cascade,
    Costs,
    Kind,
    Settings,
    ask,
    open_cascade,
    read_by_classifier,
    save_cascade,
)
from langwright.pipelines.opening import Opening
from langwright.pipelines.prompt_file import read_prompts
from langwright.pipelines.scorers import Answer, Scorer, normal
from langwright.pipelines.thresholds import Curve, Policy, choose, frontier, measure

FEWEST = 12
"""Rows that a split needs."""


def cascade(
    action: Literal["fit", "run"],
    source: str,
    out: Path | None = None,
    /,
    *,
    model: tuple[Path, ...] = (),
    kind: Kind | None = None,
    scoring: Scorer = Scorer(),
    costs: Costs = Costs(),
    asking: Asking = Asking(),
    budget: float | None = None,
    columns: Columns = Columns(),
    classifier: str | None = None,
    classifier_steps: int | None = None,
    prompt: tuple[str, ...] = (),
    prompts: Path | None = None,
    limit: float | None = None,
    opening: Opening = Opening(),
    json: bool = False,
) -> None:
    """Fit a cascade or a router of models on prompts with known answers, or let one answer.

    A cascade asks a cheap model first, and a dearer one where it is not sure of the answer. A router reads the prompt
    and asks one model. Rows are split in three by their prompts: what scorers learn from, what thresholds are fitted
    on, and what the report measures.

    Args:
        action: fit, of the rows SOURCE into the folder OUT; or run, of the folder SOURCE.
        source: a table with a column of prompts and one of answers, as for finetune --task summarise; or the folder.
        out: the new folder.
        model: the folder of a model; give two or more, each with --model.
        kind: cascade, unless given, or router.
        scoring: when a model is sure.
        costs: what is saved.
        asking: how prompts are answered.
        budget: the most that an answer may cost on average; the most accurate policy within it is taken.
        columns: which columns hold prompts (--text-field) and answers (--label-field).
        classifier: the family or preset of the classifier of --scorer learned and of a router; bert, unless given.
        classifier_steps: how long it is trained; 200, unless given.
        prompt: what to answer, with run; several may be given.
        prompts: a file of prompts, rows with a field `prompt`, with run.
        limit: with run, the most that one answer may cost: no model is asked that could go beyond it. Of seconds the
            mean is expected, and an answer that took more says that it is limited.
        opening: how the models are opened.
        json: print the result as JSON.
    """
    if action == "run":
        if out is not None or model:
            raise UserError("cascade run takes the folder of a cascade, and neither OUT nor --model")
        fitting = {"kind": kind, "budget": budget, "classifier": classifier, "classifier_steps": classifier_steps}
        _unused(
            {**fitting, **_changed(scoring), **_changed(costs), **_changed(asking), **_changed(columns)},
            "goes with cascade fit; the folder says how it was fitted",
        )
        _run(Path(source), prompt, prompts, limit, opening, json)
        return
    _unused({"prompt": prompt or None, "prompts": prompts, "limit": limit}, "goes with cascade run")
    if out is None:
        raise UserError("cascade fit needs OUT, the new folder")
    if len(model) < 2:
        raise UserError("--model: give two models or more, each with --model")
    refuse_file(out)
    if (out / RECORD).exists():
        raise UserError(f"{out}: holds a cascade already; choose another folder")
    told = Settings(kind or "cascade", tuple(map(str, model)), scoring, costs, asking)
    if told.kind == "router":
        _unused({"budget": budget, **_changed(scoring)}, "goes with --kind cascade; a router asks one model, unscored")
    if not _learns(told):
        unused = {"classifier": classifier, "classifier_steps": classifier_steps}
        _unused(unused, "goes with --scorer learned or --kind router")
    steps = 200 if classifier_steps is None else classifier_steps
    check_flag("classifier_steps", steps, steps >= 1, "at least 1")
    check_flag("budget", budget, budget is None or 0 <= budget < np.inf, "a number from 0 on")
    told, curve = _fit(source, out, told, columns, budget, classifier or "bert", steps, opening)
    save_cascade(out, told)
    if json:
        print_json({"out": str(out), "chain": told.chain, "thresholds": told.thresholds, "report": told.report})
    else:
        _tell(told, curve)
    say(f"wrote {out}")


def _run(
    folder: Path, prompt: Sequence[str], prompts: Path | None, limit: float | None, opening: Opening, json: bool
) -> None:
    """Answer prompts, and tell what that cost."""
    check_flag("limit", limit, limit is None or limit >= 0, "at least 0")
    texts = [*prompt, *([] if prompts is None else [text for text, _ in read_prompts(prompts)])]
    if not texts:
        raise UserError("cascade run needs --prompt or --prompts")
    made = open_cascade(folder, lambda one: opening.open(one))
    for text in texts:
        row = made.answer(text, limit).row()
        if json:
            print_json(row)
        else:
            print(row["text"])
            say(f"{row['model']}, stage {row['stage']}, {row['cost']:.4g} {made.settings.costs.cost}")


def _learns(told: Settings) -> bool:
    """Whether there is a classifier."""
    return told.kind == "router" or told.scorer.scorer == "learned"


def _fit(
    source: str,
    out: Path,
    told: Settings,
    columns: Columns,
    budget: float | None,
    classifier: str,
    steps: int,
    opening: Opening,
) -> tuple[Settings, Curve]:
    """What is asked when, and how good that is; a classifier is written into OUT."""
    prices = told.costs.prices(len(told.models))
    pairs = [*{pair.source: pair for pair in open_pairs(source, columns).pairs}.values()]
    parts = _parts(source, told, pairs)
    learn, fit, test = parts
    answers = [
        _answers(Path(name), pairs, price, told.asking, told.scorer, opening)
        for name, price in zip(told.models, prices, strict=True)
    ]
    right = np.array([[float(normal(row[n].text) == normal(p.target)) for row in answers] for n, p in enumerate(pairs)])
    spent = np.array([[told.costs.of(row[n]) for row in answers] for n in range(len(pairs))])
    told = replace(told, mean_costs=_means(spent[fit or learn]))
    if _learns(told):
        taught = [pairs[n] for n in learn], [[row[n] for row in answers] for n in learn]
        _train(_lessons(told.kind, *taught, right[learn], spent[learn]), out, classifier, steps)
    made = Cascade(told, lambda one: opening.open(one), out / CLASSIFIER if _learns(told) else None)
    if told.kind == "router":
        told, curve = _routed(made, pairs, test, right, spent)
    else:
        told, curve = _thresholds(made, pairs, (fit, test), answers, right, spent, budget)
    sizes = dict(zip(("learn", "fit", "test"), map(len, parts), strict=True))
    return replace(told, report={"rows": sizes, "budget": budget, **asdict(curve)}), curve


def _parts(source: str, told: Settings, pairs: Sequence[Pair]) -> tuple[list[int], list[int], list[int]]:
    """The rows to learn from, to fit on and to measure; UserError where they are too few."""
    shares = (0.4, 0.3) if _learns(told) and told.kind == "cascade" else (0.0, 0.5)
    learn, fit, test = _split([pair.source for pair in pairs], shares)
    if told.kind == "router":
        learn, fit = fit, learn
    for name, part in (("to learn from", learn), ("to fit on", fit), ("to measure", test)):
        if len(part) < FEWEST and (part or name == "to measure"):
            raise UserError(f"{source}: {len(part)} rows {name} are too few; {FEWEST} are needed at least")
    return learn, fit, test


def _thresholds(
    made: Cascade,
    pairs: Sequence[Pair],
    parts: tuple[Sequence[int], Sequence[int]],
    answers: Sequence[Sequence[Answer]],
    right: Any,
    spent: Any,
    budget: float | None,
) -> tuple[Settings, Curve]:
    """A cascade fitted on the first part of the rows and measured on the second."""
    told, (fit, test) = made.settings, parts
    made.score(pairs[0].source, 0, answers[0][0])  # the first call of a classifier takes longer
    scored = [[made.score(p.source, m, row[n]) for m, row in enumerate(answers)] for n, p in enumerate(pairs)]
    scores = np.array([[score for score, _ in row] for row in scored])
    checks = np.array([[told.costs.of(Answer(""), seconds) for _, seconds in row] for row in scored])
    policies = frontier(scores[fit], right[fit], spent[fit], checks[fit])
    best = choose(policies, float("inf") if budget is None else budget)
    if best is None:
        cheapest = f"{policies[0].cost:.4g} {told.costs.cost}"
        raise UserError(f"--budget {budget:g}: no model answers for so little; the cheapest policy costs {cheapest}")
    curve = measure(policies, scores[test], right[test], spent[test], checks[test])
    checks[:, best.chain[-1]] = 0  # the last answer is taken without a score
    means = _means((spent + checks)[fit])
    return replace(told, chain=best.chain, thresholds=best.thresholds, mean_costs=means), curve


def _unused(flags: Mapping[str, Any], why: str) -> None:
    """UserError for the first of the flags that was given."""
    if given := next((flag for flag, value in flags.items() if value is not None), None):
        raise UserError(f"--{given.replace('_', '-')}: {why}")


def _changed(recipe: Any) -> dict[str, Any]:
    """The settings of a recipe that are not the default."""
    usual = vars(type(recipe)())
    return {name: value for name, value in vars(recipe).items() if value != usual[name]}


def _means(costs: Any) -> tuple[float, ...]:
    """Of each model, over rows."""
    return tuple(costs.mean(0).tolist())


def _split(prompts: Sequence[str], shares: tuple[float, float]) -> tuple[list[int], list[int], list[int]]:
    """Rows to learn from, to fit on and to measure, by the hash of the prompt."""
    places = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 for text in prompts]
    bounds = (0.0, shares[0], sum(shares), 1.0)
    first, second, third = ([n for n, at in enumerate(places) if low <= at < high] for low, high in pairwise(bounds))
    return first, second, third


def _answers(
    folder: Path, pairs: Sequence[Pair], price: tuple[float, float], asking: Asking, scorer: Scorer, opening: Opening
) -> list[Answer]:
    """The answers of a model to all prompts, one at a time, so that the seconds are those of one."""
    opened = opening.open(folder, generates=True)
    ask(opened, pairs[0].source, asking, scorer)
    found = []
    with progress(f"asking {folder}", len(pairs), "prompts") as advance:
        for pair in pairs:
            found.append(ask(opened, pair.source, asking, scorer, price))
            advance(1)
    return found


def _lessons(
    kind: Kind, pairs: Sequence[Pair], answers: Sequence[Sequence[Answer]], right: Any, spent: Any
) -> list[tuple[str, str]]:
    """What a classifier learns from: texts and labels."""
    if kind == "cascade":
        return [
            (read_by_classifier(pair.source, number, answer), RIGHT if good else WRONG)
            for pair, row, each in zip(pairs, answers, right, strict=True)
            for number, (answer, good) in enumerate(zip(row, each, strict=True))
        ]
    order = np.argsort(spent.mean(0), kind="stable")
    # The cheapest model that is right; where none is, the cheapest.
    best = [next((int(m) for m in order if each[m]), int(order[0])) for each in right]
    return [(read_by_classifier(pair.source), str(label)) for pair, label in zip(pairs, best, strict=True)]


def _train(rows: Sequence[tuple[str, str]], out: Path, family: str, steps: int) -> None:
    """Train the classifier in OUT."""
    labels = {label for _, label in rows}
    if len(labels) < 2:
        raise UserError(f"every row to learn from has the label {labels.pop()!r}: there is nothing to tell apart")
    out.mkdir(parents=True, exist_ok=True)
    table = out / "lessons.jsonl"
    write_atomic(table, "".join(json_module.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    recipe = TuningRecipe(
        task="classify", depth=2, tokenizer="bytes", context=256, steps=str(steps), batch_size=16, split="10%"
    )
    train_classifier(Path(NEW + family), str(table), out / CLASSIFIER, recipe)


def _routed(
    made: Cascade, pairs: Sequence[Pair], test: Sequence[int], right: Any, spent: Any
) -> tuple[Settings, Curve]:
    """A router measured: what it chooses is a single model each time."""
    made.route(pairs[0].source)  # the first call of a classifier takes longer
    chosen, seconds = zip(*(made.route(pairs[n].source) for n in test), strict=True)
    rows, routing = np.array(test), [made.settings.costs.of(Answer(""), each) for each in seconds]
    good, paid = right[rows, chosen][:, None], (spent[rows, chosen] + routing)[:, None]
    curve = measure([Policy((0,), (), 0.0, 0.0)], np.zeros_like(good), good, paid)
    singles = measure([], np.zeros_like(right[rows]), right[rows], spent[rows])
    return made.settings, replace(singles, points=curve.points, area=float(good.mean()))


def _tell(told: Settings, curve: Curve) -> None:
    unit = told.costs.cost
    for name, (accuracy, cost) in zip(told.models, curve.singles, strict=True):
        print(f"{name}: {accuracy:.1%} right for {cost:.4g} {unit} an answer")
    for point in curve.points:
        low, high = point.accuracy_interval
        policy = point.policy
        steps = [Path(told.models[m]).name for m in policy.chain] if told.kind == "cascade" else ["router"]
        mark = " <- taken" if (policy.chain, policy.thresholds) == (told.chain, told.thresholds) else ""
        print(f"{' > '.join(steps)}: {point.accuracy:.1%} ({low:.1%} to {high:.1%}) for {point.cost:.4g} {unit}{mark}")
    print(f"an oracle: {curve.oracle[0]:.1%} for {curve.oracle[1]:.4g} {unit}")
    if told.kind == "cascade":
        print(f"mean over costs: {curve.area:.1%}; deferring at random {curve.random:.1%}")
