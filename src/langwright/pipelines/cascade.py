"""Several models that answer for less than the best alone: asked one after the other, or chosen by a router.

Both are folders. `cascade.json` names the models and says which is asked when; a classifier of ours, a model folder
below it, scores answers (learned) or reads prompts (a router).
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from langwright.base.errors import UserError
from langwright.base.files import read_record, write_json
from langwright.base.hub import PREFIX
from langwright.inference.engine import Engine
from langwright.inference.prompts import given_ids
from langwright.inference.request import Completion, Request
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.pipelines.scorers import Answer, Scorer
from langwright.text.tokenizer import Tokenizer

RECORD, CLASSIFIER, FORMAT_VERSION = "cascade.json", "classifier", 2
RIGHT, WRONG = "right", "wrong"
"""The labels of the classifier that scores answers; those of a router are the numbers of the models."""
Kind = Literal["cascade", "router"]
Opened = tuple[Model, Tokenizer]


@dataclass(frozen=True)
class Costs:
    """What counts as the cost of an answer.

    Args:
        cost: seconds that were measured, those of a classifier included; tokens that the models read and wrote; or
            their price.
        price: of each model, in the order of --model, per million tokens: READ:WRITTEN, such as 0.5:1.5.
    """

    cost: Literal["seconds", "tokens", "price"] = "seconds"
    price: tuple[str, ...] = ()

    def prices(self, models: int) -> list[tuple[float, float]]:
        """Read and written, of each model; UserError where they do not go with the models."""
        if self.cost == "price" and len(self.price) != models:
            raise UserError(f"--price: give one for each of {models} models, such as --price 0.5:1.5")
        try:
            found = [tuple(float(part) for part in each.split(":")) for each in self.price]
        except ValueError:
            found = [()]
        if any(len(each) != 2 or min(each) < 0 for each in found):
            raise UserError(
                f"--price {' '.join(self.price)}: a price is READ:WRITTEN per million tokens, such as 0.5:1.5"
            )
        return [(each[0], each[1]) for each in found] or [(0.0, 0.0)] * models

    def of(self, answer: Answer, deciding: float = 0.0) -> float:
        """The cost of an answer. deciding: the seconds of the classifier that chose its model or scored it."""
        tokens = float(answer.read + answer.written)
        return {"seconds": answer.seconds + deciding, "tokens": tokens, "price": answer.price}[self.cost]


@dataclass(frozen=True)
class Asking:
    """How prompts are answered.

    Args:
        max_new_tokens: the most tokens of an answer.
        stop: a string that ends an answer.
    """

    max_new_tokens: int = 32
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What `cascade.json` says: the models by their folders, how they are asked and scored, and who is asked when.

    chain: numbers of models in the order they are asked. thresholds: from which score on the answer of each but the
    last is accepted. mean_costs: of an answer of each model, and of its score where the chain wants one. report: what
    fitting measured.
    """

    kind: Kind
    models: tuple[str, ...]
    scorer: Scorer
    costs: Costs
    asking: Asking
    chain: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    mean_costs: tuple[float, ...] = ()
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Stage:
    """A model that was asked. cost: of its answer and of what decided about it. score: of its answer, if any."""

    model: str
    answer: Answer
    cost: float
    score: float | None = None


@dataclass(frozen=True)
class Reply:
    """The answer of a cascade or router, and all that was spent on it.

    limited: a dearer model would have been asked, had the limit let it; or more seconds were spent than it allows.
    """

    stages: tuple[Stage, ...]
    limited: bool = False

    def row(self) -> dict[str, Any]:
        """What JSON says of it."""
        told = [
            {"model": s.model, "score": s.score, "cost": s.cost, "seconds": s.answer.seconds, "price": s.answer.price,
             "tokens_read": s.answer.read, "tokens_written": s.answer.written}
            for s in self.stages
        ]  # fmt: skip
        last = self.stages[-1]
        cost = sum(stage.cost for stage in self.stages)
        found = {"text": last.answer.text, "model": last.model, "stage": len(self.stages), "cost": cost, "stages": told}
        return found | ({"limited": True} if self.limited else {})


def requests_for(ids: Sequence[int], asking: Asking, scorer: Scorer) -> list[Request]:
    """What an engine is asked for a greedy answer, and for what the scorer compares it with."""
    first = Request(ids, Sampling(temperature=0), asking.max_new_tokens, asking.stop, logprobs=2)
    if not scorer.drawn:
        return [first]
    return [first, replace(first, sampling=Sampling(temperature=1.0, seed=0), n=scorer.drawn, logprobs=None)]


def answer_from(
    completions: Sequence[Completion], read: int, written: int, seconds: float, price: tuple[float, float] = (0.0, 0.0)
) -> Answer:
    """The answer that texts make, the greedy one first; UserError where one of them broke down."""
    if error := next((completion.error for completion in completions if completion.error), None):
        raise UserError(f"the model broke down over a prompt of {read} tokens: {error}")
    best, *others = completions
    samples = tuple(completion.text for completion in others)
    paid = _paid(read, written, price)
    return Answer(best.text, best.logprobs or (), samples, read, written, seconds, paid, best.reason)


def ask(opened: Opened, prompt: str, asking: Asking, scorer: Scorer, price: tuple[float, float] = (0.0, 0.0)) -> Answer:
    """The greedy answer of a model, with what the scorer needs."""
    model, tokenizer = opened
    ids, began = given_ids(model, tokenizer, prompt), time.perf_counter()
    limit = asking.max_new_tokens
    longest = len(ids) + limit if model.context is None else min(len(ids) + limit, model.context)
    engine = Engine(model, tokenizer, batch=1 + scorer.drawn, longest=longest)
    handles = [engine.add(request) for request in requests_for(ids, asking, scorer)]
    while engine.busy:
        engine.step()
    completions = [completion for handle in handles for completion in handle.completions]
    written = sum(handle.written for handle in handles)
    return answer_from(completions, len(ids), written, time.perf_counter() - began, price)


def _paid(read: int, written: int, price: tuple[float, float]) -> float:
    return (read * price[0] + written * price[1]) / 1e6


def read_by_classifier(prompt: str, model: int | None = None, answer: Answer | None = None) -> str:
    """The text that a classifier reads: a prompt, and where it scores an answer, that and the number of who gave it."""
    return prompt if answer is None else f"{prompt}\n{model}: {answer.text}"


@torch.no_grad()
def probabilities(classifier: Opened, text: str) -> dict[str, float]:
    """The probability of each label."""
    model, tokenizer = classifier
    ids, _ = tokenizer.frame(text, limit=model.context)
    found = model(torch.tensor([ids], device=model.device)).float().softmax(-1)[0]
    return dict(zip(model.labels, found.tolist(), strict=True))


Turns = Generator[int, Answer, Reply]


def advance(turns: Turns, answer: Answer | None = None) -> int | Reply:
    """The next model that is to be asked, by its number, or the reply. answer: that of the last one."""
    try:
        return next(turns) if answer is None else turns.send(answer)
    except StopIteration as end:
        reply: Reply = end.value
        return reply


class Cascade:
    """Models asked in turn until one is sure, or the one that a router chooses.

    Args:
        settings: who is asked when.
        open_model: opens a model folder; each is opened when it is first asked.
        classifier: the folder of the classifier, where there is one.
    """

    def __init__(
        self, settings: Settings, open_model: Callable[[Path], Opened], classifier: Path | None = None
    ) -> None:
        self.settings = settings
        self._open = cache(open_model)
        self._classifier = classifier
        self._prices = settings.costs.prices(len(settings.models))

    def with_asking(self, asking: Asking) -> "Cascade":
        """The same, whose prompts are answered in this way."""
        return Cascade(replace(self.settings, asking=asking), self._open, self._classifier)

    def price(self, model: int) -> tuple[float, float]:
        """Of a model, given by its number: per million tokens read, and written."""
        return self._prices[model]

    def answer(self, prompt: str, limit: float | None = None) -> Reply:
        """The answer to a prompt; arguments and errors are those of `turns`."""

        def opened(model: int) -> Opened:
            return self._open(Path(self.settings.models[model]))

        turns = self.turns(prompt, lambda model: given_ids(*opened(model), prompt), limit)
        told, turn = self.settings, advance(turns)
        while not isinstance(turn, Reply):
            turn = advance(turns, ask(opened(turn), prompt, told.asking, told.scorer, self._prices[turn]))
        return turn

    def turns(self, prompt: str, ids: Callable[[int], Sequence[int]], limit: float | None = None) -> Turns:
        """Who is asked: the number of a model each time, for which its answer is to be sent, and the reply at the end.

        Args:
            prompt: the prompt, as classifiers read it.
            ids: gives the prompt's ids for a model, given by its number.
            limit: the most that the answer may cost. A model is asked only where it holds even if the answer is as long
                as can be. Seconds are not known before: there a model is asked whose mean cost is within the limit.

        Raises:
            UserError: The limit is too low for the first model.
        """
        told, stages, spent, seconds = self.settings, list[Stage](), 0.0, 0.0
        chain = told.chain
        if told.kind == "router":
            chosen, seconds = self.route(prompt)
            chain = (chosen,)
        for number, model in enumerate(chain):
            name = told.models[model]
            if limit is not None and (most := told.costs.of(self._most(ids, model), seconds)) + spent > limit:
                if not stages:
                    raise UserError(
                        f"--limit {limit:g}: {name} may take {most:.4g} {told.costs.cost} for {prompt!r:.60}"
                    )
                return Reply(tuple(stages), limited=True)
            answer = yield model
            score = None
            if number < len(chain) - 1:
                score, seconds = self.score(prompt, model, answer)
            stages.append(Stage(name, answer, told.costs.of(answer, seconds), score))
            spent, seconds = spent + stages[-1].cost, 0.0
            if answer.reason == "deadline" or (score is not None and score >= told.thresholds[number]):
                break
        return Reply(tuple(stages), limited=limit is not None and spent > limit)

    def score(self, prompt: str, model: int, answer: Answer) -> tuple[float, float]:
        """How sure an answer of a model, given by its number, is, and the seconds that the classifier took."""
        if self.settings.scorer.scorer != "learned":
            return self.settings.scorer.score(answer), 0.0
        found, seconds = self._classify(read_by_classifier(prompt, model, answer))
        return found[RIGHT], seconds

    def route(self, prompt: str) -> tuple[int, float]:
        """The number of the model that a router chooses, and the seconds that the classifier took."""
        found, seconds = self._classify(read_by_classifier(prompt))
        return int(max(found, key=lambda label: found[label])), seconds

    def _classify(self, text: str) -> tuple[dict[str, float], float]:
        assert self._classifier is not None
        opened, began = self._open(self._classifier), time.perf_counter()
        return probabilities(opened, text), time.perf_counter() - began

    def _most(self, ids: Callable[[int], Sequence[int]], model: int) -> Answer:
        """The longest answer of a model that can be; its seconds are the mean ones."""
        told = self.settings
        if told.costs.cost == "seconds":
            return Answer("", seconds=told.mean_costs[model])
        read = len(ids(model))
        written = told.asking.max_new_tokens * (1 + told.scorer.drawn)
        return Answer("", read=read, written=written, price=_paid(read, written, self._prices[model]))


def save_cascade(folder: Path, settings: Settings) -> None:
    """Write what a folder says, models by their places relative to it; its classifier lies there already."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        name if name.startswith(PREFIX) else os.path.relpath(Path(name).resolve(), folder.resolve())
        for name in settings.models
    ]
    write_json(folder / RECORD, {"format_version": FORMAT_VERSION, **asdict(settings), "models": models})


def open_cascade(folder: Path, open_model: Callable[[Path], Opened]) -> Cascade:
    """A cascade or a router out of its folder; UserError where that is broken."""
    path = folder / RECORD
    record = read_record(path, "the settings of the cascade", FORMAT_VERSION)
    try:
        settings = _settings(record)
        places = (name if name.startswith(PREFIX) else str((folder / name).resolve()) for name in settings.models)
        settings = replace(settings, models=tuple(places))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not what langwright cascade fit wrote: {error!r}") from None
    classifier = folder / CLASSIFIER if settings.kind == "router" or settings.scorer.scorer == "learned" else None
    if classifier is not None and not classifier.is_dir():
        raise UserError(f"{classifier}: the classifier is missing")
    return Cascade(settings, open_model, classifier)


def _settings(record: Mapping[str, Any]) -> Settings:
    def numbers(key: str, kind: type, most: float) -> tuple[Any, ...]:
        values = tuple(kind(value) for value in record[key])
        if not all(0 <= value < most for value in values):
            raise ValueError(f"{key} = {record[key]}")
        return values

    models: Sequence[str] = record["models"]
    chain, thresholds = numbers("chain", int, len(models)), numbers("thresholds", float, 1e9)
    costs = numbers("mean_costs", float, float("inf"))
    if record["kind"] not in ("cascade", "router") or not models or len(costs) != len(models):
        raise ValueError(f"kind = {record['kind']!r}, models = {models}")
    if record["kind"] == "cascade" and len(chain) != len(thresholds) + 1:
        raise ValueError(f"{len(chain)} models in chain and {len(thresholds)} thresholds")
    how = record["asking"]
    asking = Asking(how["max_new_tokens"], tuple(how["stop"]))
    paid = Costs(record["costs"]["cost"], tuple(record["costs"]["price"]))
    scorer = Scorer(**record["scorer"])
    report = record.get("report")
    return Settings(record["kind"], tuple(models), scorer, paid, asking, chain, thresholds, costs, report)
