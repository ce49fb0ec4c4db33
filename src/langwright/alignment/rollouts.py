"""Rollouts: a policy answers prompts, its answers are scored, and become the batches that it learns from.

A step of the run is one rollout and all updates with it. An engine writes the answers with the weights as they are
now; the trainer then computes the log-probabilities that learning compares with, once, in the very slices in which
the first updates see the answers, so that the first ratio is exactly 1.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from langwright.alignment.rewards import Reward, answered
from langwright.base.console import warn
from langwright.base.errors import UserError
from langwright.corpora.preferences import Prompt
from langwright.data.order import Layout
from langwright.inference.engine import Engine
from langwright.inference.paged import PagedCache
from langwright.inference.request import Completion, Request
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.objectives.batch import Models, TokenBatch
from langwright.objectives.losses import entropies, log_probabilities
from langwright.objectives.policy import (
    Aggregation,
    Answers,
    RolloutBatch,
    Tokens,
    adapted_coefficient,
    aggregate,
)
from langwright.objectives.preferences import Reference
from langwright.text.tokenizer import Tokenizer

SIDE_BY_SIDE = 64
"""The most answers that are written at once."""
BLOCK = 16
"""Tokens in a block of the engine."""
MEASURED = 32
"""Held-out answers that go through a model together."""
MISMATCH = 1e-3
"""In float32, how far the log-probabilities of generation and of training may be apart, in nats."""


@dataclass(frozen=True)
class Question:
    """A prompt as the policy reads it. ids: its tokens, as a chat template makes them of a conversation."""

    ids: tuple[int, ...]
    prompt: Prompt


@dataclass(frozen=True)
class Plan:
    """How answers are drawn and used.

    Args:
        group: answers to each prompt.
        max_new_tokens: the most tokens of an answer.
        temperature: what logits are divided by, in drawing and in all log-probabilities.
        passes: how often the updates of a step see each answer.
        mini_batches: the parts of a rollout, each of which is one update of a pass.
        micro_batch: answers in a forward pass; all of a mini-batch unless given.
        missing_stop: what is taken from the score of an answer that does not end.
        kl: the weight of the KL to the reference.
        kl_target: the KL in nats an answer that the weight is adapted to; None keeps the weight.
        horizon: see `adapted_coefficient`.
        aggregation: see `aggregate`.
    """

    group: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    passes: int = 1
    mini_batches: int = 1
    micro_batch: int | None = None
    missing_stop: float = 0.0
    kl: float = 0.05
    kl_target: float | None = None
    horizon: float = 10_000.0
    aggregation: Aggregation = "grpo"


@dataclass(frozen=True)
class Rollout:
    """What was written and scored; rows are answers, those to one prompt side by side.

    Args:
        scores: what answers are worth.
        real: 1 for a token of an answer, that which ends it included, and 0 for padding.
        policy, reference: log-probabilities.
        values: what the value model expected at each token; None without one.
        group: answers to a prompt.
        kl: the weight of the KL to the reference.
    """

    scores: Answers
    real: Tokens
    policy: Tokens
    reference: Tokens
    values: Tokens | None
    group: int
    kl: float


@dataclass(frozen=True)
class Credit:
    """What the tokens of a rollout get of its scores.

    Args:
        advantages: of each token.
        returns: what the values should have been.
        in_loss: whether the KL to the reference is a term of the loss, rather than of the advantages.
        kept: the share of the answers that are learnt from, where the method chooses.
    """

    advantages: Tokens
    returns: Tokens | None = None
    in_loss: bool = False
    kept: float | None = None


Method = Callable[[Rollout], Credit]
"""What tells PPO, GRPO, RLOO and REINFORCE apart."""


@dataclass(frozen=True)
class Written:
    """Answers, and what is known of them.

    Args:
        answers: as the engine wrote them.
        worth: of each, by the reward.
        seen: prompts and answers as a batch.
        said: log-probabilities of "policy" and "reference", their "entropy", and "values" where they are learnt.
        numbers: their means, for the metrics.
    """

    answers: Sequence[Completion]
    worth: Answers
    seen: TokenBatch
    said: Mapping[str, Tokens]
    numbers: dict[str, float]


@final
class Rollouts:
    """The batches of a run that learns from its own answers.

    Args:
        questions: the prompts to learn from.
        layout: how many of them a step has, and their order.
        tokenizer: of the policy.
        reward: what answers are worth.
        method: from scores to advantages.
        plan: how answers are drawn and used.
        reference: the model that the policy is not to leave.
        held_out: the prompts to measure the policy with.
        gold: a second reward, that is measured and not learnt from.

    Attributes:
        numbers: what the last rollout came to, for the metrics.

    Raises:
        UserError: The answers of a step are not a multiple of the mini-batches, or several processes share the run.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        layout: Layout,
        *,
        tokenizer: Tokenizer,
        reward: Reward,
        method: Method,
        plan: Plan,
        reference: Reference,
        held_out: Sequence[Question] = (),
        gold: Reward | None = None,
    ) -> None:
        if layout.world > 1:
            raise UserError("--parallel ddp: rollouts are those of one process; leave it out")
        answers = layout.batch_size * plan.group
        if answers % plan.mini_batches:
            raise UserError(f"--mini-batches {plan.mini_batches}: {answers} answers a step are not a multiple of that")
        self._questions, self._held_out, self._layout, self._tokenizer = questions, held_out, layout, tokenizer
        self._reward, self._method, self._plan, self._reference = reward, method, plan, reference
        self._gold, self._step, self._taken, self._kl = gold, 0, 0, plan.kl
        self._rollout: RolloutBatch | None = None
        self._writer: AnswerWriter | None = None
        self._warned = self._idle = False
        self.numbers: dict[str, float] = {}

    @property
    def windows(self) -> int:
        """The prompts, which are the samples of one epoch."""
        return len(self._questions)

    @property
    def tokens_per_step(self) -> int:
        """The most tokens that the updates of a step read."""
        prompt = sum(len(question.ids) for question in self._questions) / len(self._questions)
        each = prompt + self._plan.max_new_tokens
        return round(self._layout.batch_size * self._plan.group * each * self._plan.passes)

    @property
    def updates(self) -> int:
        """Updates of the weights in a step."""
        return self._plan.passes * self._plan.mini_batches

    def next(self, models: Models) -> RolloutBatch:
        """The mini-batch of the next update; the first one of a step begins with a new rollout."""
        plan = self._plan
        if self._taken == 0:
            self._rollout = self._roll_out(models)
        assert self._rollout is not None
        part, size = self._taken % plan.mini_batches, len(self._rollout) // plan.mini_batches
        if part == 0 and self._taken:  # another pass sees the answers in another order
            self._rollout = _taken(self._rollout, self._order(len(self._rollout), self._taken))
        batch = self._rollout.rows(part * size, (part + 1) * size)
        self._taken = (self._taken + 1) % self.updates
        return batch

    def state(self) -> dict[str, Tensor]:
        """How many rollouts there were, and the weight of the KL; checkpoints stand between steps."""
        return {"step": torch.tensor(self._step), "kl": torch.tensor(self._kl, dtype=torch.float64)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self._step, self._kl, self._taken = int(state["step"]), float(state["kl"]), 0

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps to know that a resumed run sees the same prompts."""
        ids = hashlib.sha256(repr([question.ids for question in self._questions]).encode()).hexdigest()
        layout = {"batch_size": self._layout.batch_size, "seed": self._layout.seed}
        return {"version": 1, **layout, **vars(self._plan), "prompts": ids}

    def measure(self, models: Models, count: int) -> Written:
        """One answer to each of some held-out prompts, evenly spread; the same draws whenever it is called."""
        numbers = [place * len(self._held_out) // count for place in range(count)]
        seeds = [_seed(f"{self._layout.seed}:{number}:held out") for number in numbers]
        slices = [(start, min(start + MEASURED, count)) for start in range(0, count, MEASURED)]
        return self._write(models, [self._held_out[n] for n in numbers], seeds, group=1, slices=slices)

    def first(self, models: Models, count: int) -> tuple[list[Question], list[Completion], Answers]:
        """What the reference answers to the prompts of `measure`, with the same draws, and what that is worth."""
        numbers = [place * len(self._held_out) // count for place in range(count)]
        questions = [self._held_out[number] for number in numbers]
        seeds = [_seed(f"{self._layout.seed}:{number}:held out") for number in numbers]
        with self._reference(models) as reference:
            answers = self._writer_of(reference)(questions, seeds, 1)
        return questions, answers, self._worth(questions, answers, self._reward)

    def _order(self, count: int, taken: int) -> Tensor:
        """A seeded order of the answers, one for each pass of each step."""
        key = f"{self._layout.seed}:{self._step}:{taken}:order"
        return torch.randperm(count, generator=torch.Generator().manual_seed(_seed(key)))

    @torch.no_grad()
    def _roll_out(self, models: Models) -> RolloutBatch:
        """Write answers, score them, and make the batch of all updates with them."""
        plan, count = self._plan, self._layout.batch_size * self._plan.group
        samples, rows = self._layout.rows(self._step, len(self._questions))
        seeds = [_seed(f"{self._layout.seed}:{sample}:answers") for sample in samples]
        part = count // plan.mini_batches
        size = min(plan.micro_batch or part, part)
        slices = [
            (at, min(at + size, first + part))
            for first in range(0, count, part)
            for at in range(first, first + part, size)
        ]
        order = self._order(count, 0)
        questions = [self._questions[row] for row in rows for _ in range(plan.group)]
        written = self._write(models, questions, seeds, group=plan.group, slices=slices, order=order)
        real, said = written.seen.weights, written.said
        ended = torch.tensor([answer.reason == "end" for answer in written.answers])
        scores = written.worth - plan.missing_stop * ~ended  # 5. of the details of PPO, see ppo.py
        rollout = Rollout(scores, real, said["policy"], said["reference"], said.get("values"), plan.group, self._kl)
        credit = self._method(rollout)
        scale, share = aggregate(real, plan.aggregation, plan.max_new_tokens)
        batch = RolloutBatch(
            **{**vars(written.seen), "samples": torch.from_numpy(samples).repeat_interleave(plan.group)},
            old=said["policy"],
            advantages=credit.advantages,
            scale=scale,
            share=share,
            reference=said["reference"] if credit.in_loss else None,
            penalty=torch.full_like(scale, self._kl) if credit.in_loss else None,
            values=said.get("values"),
            returns=credit.returns,
        )
        groups = scores.view(-1, plan.group)
        same = float((groups == groups[:, :1]).all(1).float().mean())
        self.numbers = {**written.numbers, "same_reward": same, "kl_weight": self._kl}
        if credit.kept is not None:
            self.numbers["kept"] = credit.kept
        if credit.kept == 0 and not self._idle:
            best = float(scores.max())
            warn(f"no answer of a rollout is kept, so nothing is learnt from it; the best reward was {best:.3g}")
            self._idle = True
        if plan.kl_target is not None:  # 8.
            self._kl = adapted_coefficient(self._kl, written.numbers["kl"], plan.kl_target, count, plan.horizon)
        self._step += 1
        return _taken(batch, order)

    @torch.no_grad()
    def _write(
        self,
        models: Models,
        questions: Sequence[Question],
        seeds: Sequence[int],
        *,
        group: int,
        slices: Sequence[tuple[int, int]],
        order: Tensor | None = None,
    ) -> Written:
        """Write answers, and see what they are worth and what the models say of them.

        Args:
            models: by name.
            questions: the prompt of each answer.
            seeds: of each group of answers.
            group: answers to a prompt.
            slices: which answers go through the models together.
            order: in which they do.
        """
        for each in models.values():
            each.eval()
        if self._writer is None:
            self._writer = self._writer_of(models["model"])
        answers = self._writer(questions[::group], seeds, group)
        worth = self._worth(questions, answers, self._reward)
        seen = _side_by_side(questions, answers)
        order = torch.arange(len(seen)) if order is None else order
        found, shuffled = list[dict[str, Tensor]](), _taken(seen, order)
        for each in models.values():
            each.train()
        for start, stop in slices:
            with torch.enable_grad():
                found.append(self._say(models, shuffled.rows(start, stop)))
        said = {name: torch.cat([part[name] for part in found])[order.argsort()] for name in found[0]}
        tokens = seen.weights.sum()
        numbers = {
            "reward": float(worth.mean()),
            "reward_deviation": float(worth.std(correction=0)),
            "kl": float(((said["policy"] - said["reference"]) * seen.weights).sum() / len(seen)),
            "entropy": float((said["entropy"] * seen.weights).sum() / tokens),
            "length": float(tokens / len(seen)),
            "ended": sum(answer.reason == "end" for answer in answers) / len(seen),
            "mismatch": self._compare(answers, said["plain"], models["model"]),
        }
        if self._gold is not None:
            numbers["gold"] = float(self._worth(questions, answers, self._gold).mean())
        return Written(answers, worth, seen, said, numbers)

    def _worth(self, questions: Sequence[Question], answers: Sequence[Completion], reward: Reward) -> Answers:
        """What answers are worth."""
        both = zip(questions, answers, strict=True)
        return torch.tensor(
            reward([answered(question.prompt, answer.text, answer.reason != "length") for question, answer in both])
        )

    def _writer_of(self, model: Model) -> "AnswerWriter":
        longest = max(len(question.ids) for question in (*self._questions, *self._held_out))
        seats = min(SIDE_BY_SIDE, self._layout.batch_size * self._plan.group)
        return AnswerWriter(model, self._tokenizer, longest, seats, self._plan)

    def _say(self, models: Models, rows: TokenBatch) -> dict[str, Tensor]:
        """What policy, reference and value model say of each token, in float32 on the CPU.

        They compute as in training, gradients included, for which some kernels are others: so the first ratio is 1.
        """
        model, temperature = models["model"], self._plan.temperature
        rows = rows.to(model.device)
        hidden = rows.hidden(model)[0]
        projection = model.head.projection(hidden)
        said = {
            "policy": log_probabilities(projection, rows.targets, temperature),  # 1.
            "entropy": entropies(projection, rows.targets, temperature),
        }
        # The engine's log-probabilities are those of the model, whatever the temperature is.
        said["plain"] = said["policy"] if temperature == 1 else log_probabilities(projection, rows.targets)
        if "value" in models:
            said["values"] = models["value"](rows, hidden)
        with self._reference(models) as reference:
            frozen = reference.head.projection(rows.hidden(reference)[0])
            said["reference"] = log_probabilities(frozen, rows.targets, temperature)
        return {name: value.detach().float().cpu() for name, value in said.items()}

    def _compare(self, answers: Sequence[Completion], plain: Tokens, model: Model) -> float:
        """The largest difference between log-probabilities at generation and in training, in nats."""
        said = (torch.tensor([one.logprob for one in answer.logprobs or ()]) for answer in answers)
        each = [(one - row[: len(one)]).abs().max() for one, row in zip(said, plain, strict=True)]
        apart = float(torch.stack(each).max())  # NaN if one of them is
        exact = next(model.parameters()).dtype == torch.float32
        if not self._warned and (isnan(apart) or (exact and apart > MISMATCH)):
            warn(
                f"log-probabilities at generation and in training differ by up to {apart:.2g} nats, more than "
                f"{MISMATCH:g}: the policy learns from answers that are not quite its own"
            )
            self._warned = True
        return apart


class AnswerWriter:
    """Draws answers with a model as it is when called.

    Args:
        model: the policy.
        tokenizer: of the model.
        longest: tokens of the longest prompt.
        seats: the most answers that are written at once.
        plan: how answers are drawn.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, longest: int, seats: int, plan: Plan) -> None:
        self._plan = plan
        each = PagedCache.blocks_for(model, longest + plan.max_new_tokens, BLOCK)
        # As many blocks as all texts side by side may want: how much memory is free today decides nothing.
        self._engine = Engine(model, tokenizer, batch=seats, blocks=seats * each, block_size=BLOCK)

    def __call__(self, questions: Sequence[Question], seeds: Sequence[int], group: int) -> list[Completion]:
        """So many answers to each question, side by side; UserError where the model gives none.

        Each answer draws from a generator of its own: number i to a question from that of the question's seed + i.
        """
        plan, engine = self._plan, self._engine
        engine.forget()  # the weights have changed
        asked = Request((), max_new_tokens=plan.max_new_tokens, n=group, logprobs=0)
        handles = []
        for question, seed in zip(questions, seeds, strict=True):
            drawn = Sampling(temperature=plan.temperature, seed=seed)
            handles.append(engine.add(replace(asked, prompt=question.ids, sampling=drawn)))
        answers = [answer for texts in engine.finish(handles) for answer in texts]
        if error := next((answer.error for answer in answers if answer.error), None):
            raise UserError(f"the policy writes no more: {error}; begin again with a lower --learning-rate")
        return answers


def _side_by_side(questions: Sequence[Question], answers: Sequence[Completion]) -> TokenBatch:
    """Prompts and answers as rows with padding at the right, which lengths tell apart from tokens, never an id."""
    texts = [torch.tensor([*question.ids, *answer.ids]) for question, answer in zip(questions, answers, strict=True)]
    ids = pad_sequence(texts, batch_first=True)
    prompts = torch.tensor([len(question.ids) for question in questions])[:, None]
    lengths = torch.tensor([len(answer.ids) for answer in answers])[:, None]
    columns = torch.arange(int(lengths.max()))
    at = (prompts - 1 + columns).clamp(max=ids.shape[1] - 2)
    return TokenBatch(
        ids=ids[:, :-1].contiguous(),
        targets=ids[:, 1:].gather(1, at),
        weights=(columns < lengths).float(),  # 2. the token that ends an answer counts, and nothing behind it
        mask=torch.arange(ids.shape[1] - 1) < prompts + lengths - 1,  # 3. positions count what it says
        at=at,
    )


def _taken(batch: Any, order: Tensor) -> Any:
    """The rows of a batch in another order."""
    return type(batch)(**{name: None if x is None else x[order] for name, x in vars(batch).items()})


def _seed(key: str) -> int:
    """A seed that is a pure function of a key, below 2**56: the answers to a prompt add their numbers."""
    return int.from_bytes(hashlib.blake2b(f"langwright rollouts 1:{key}".encode(), digest_size=7).digest(), "little")
