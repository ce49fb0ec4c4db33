"""A policy of one layer over five words, and tasks with a known optimum that it learns to solve.

Run as a program, it solves them without the type checks of the tests, which would take twenty times as long, and
prints what came of it as JSON.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from langwright.alignment.groups import Grpo, Reinforce, Rloo
from langwright.alignment.ppo import Ppo, Values
from langwright.alignment.rewards import Answered
from langwright.alignment.rollouts import Method, Plan, Question, Rollouts
from langwright.corpora.preferences import Prompt
from langwright.data.order import Layout
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.objectives.policy import PolicyOptimisation
from langwright.text.training import train_words
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe

METHODS: dict[str, tuple[Method, dict[str, Any], dict[str, Any]]] = {
    "ppo": (Ppo(), {"ratio": "token", "value": 0.5}, {"aggregation": "dapo", "passes": 2}),
    "grpo": (Grpo(), {"ratio": "token", "penalised": True}, {"aggregation": "dapo"}),
    "rloo": (Rloo(), {"ratio": "sum"}, {"aggregation": "grpo"}),
    "reinforce": (Reinforce(), {"ratio": "none"}, {"aggregation": "sum"}),
}
"""Method, settings of the loss, and of the plan."""
WORTH = {"a": 0.0, "b": 0.3, "c": 1.0, "d": 0.5, "e": 0.2}
"""What the arms of the bandit give."""


def worth(answer: str) -> float:
    """What an answer of one word is worth."""
    return WORTH.get(answer.strip(), 0.0)


def spelt(answer: str) -> float:
    """How much of the word d e c a b an answer is: 1 for one of 5 ** 5."""
    return sum(map(str.__eq__, answer.split(), "decab")) / 5


class Policy:
    """A policy, its supply and its learner; `plan` are settings of `Plan`."""

    def __init__(
        self, name: str, reward: Callable[[str], float], *, batch: int = 4, prompts: Sequence[str] = ("a",),
        rate: float = 0.01, entropy: float = 0.0, dtype: torch.dtype = torch.float32, held_out: Sequence[str] = (),
        **plan: Any,
    ) -> None:  # fmt: skip
        method, loss, usual = METHODS[name]
        self.tokenizer = train_words(["a b c d e"], 9)
        config = GPT2Config(
            vocab_size=self.tokenizer.vocab_size, n_positions=16, n_embd=16, n_layer=1, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        model = new_model("gpt2", config, seed=1)
        self.reference = deepcopy(model).to(dtype).requires_grad_(False).eval()
        models = {"model": model} | ({"value": Values(16)} if name == "ppo" else {})
        self.plan = Plan(**{"group": 8, "max_new_tokens": 1, "kl": 0.0, **usual, **plan})
        self.asked: list[Answered] = []

        def rewarded(answers: Sequence[Answered]) -> list[float]:
            self.asked += answers
            return [reward(one.answer) for one in answers]

        @contextmanager
        def reference(models: Any) -> Iterator[Any]:
            yield self.reference

        self.supply = Rollouts(
            [self.question(text) for text in prompts], Layout(batch, seed=0), tokenizer=self.tokenizer, reward=rewarded,
            method=method, plan=self.plan, reference=reference, held_out=[self.question(text) for text in held_out],
        )  # fmt: skip
        objective = PolicyOptimisation(temperature=self.plan.temperature, entropy=entropy, **loss)
        recipe = TrainingRecipe(learning_rate=rate, weight_decay=0.0, micro_batch=self.plan.micro_batch)
        self.learner = Learner(models, objective, dtype, recipe)

    def question(self, text: str) -> Question:
        """A prompt of these words."""
        return Question((*self.tokenizer.prefix, *self.tokenizer.encode(text)), Prompt(text))

    def train(self, steps: int) -> list[dict[str, float]]:
        """The metrics of some steps."""
        rows = []
        for _ in range(steps):
            for _ in range(self.supply.updates):
                found = self.learner.backward(self.supply.next(self.learner.models))
                self.learner.clip()
                self.learner.step(1.0)
            rows.append(self.supply.numbers | {name: float(value) for name, value in found.measured.items()})
        return rows

    @torch.no_grad()
    def chances(self, model: Any) -> Tensor:
        """Of each token after the prompt "a"."""
        found: Tensor = model.eval()(torch.tensor([self.question("a").ids]))[0, -1].softmax(-1)
        return found


def solve() -> dict[str, Any]:
    """What each method makes of each task."""
    found: dict[str, Any] = {"bandit": {}, "word": {}, "optimum": {}}
    for name in METHODS:
        policy = Policy(name, worth)
        rows, best = policy.train(25), policy.tokenizer.encode("c")[0]
        chances = [float(policy.chances(model)[best]) for model in (policy.reference, policy.learner.model)]
        found["bandit"][name] = {"chances": chances, "first": rows[0], "last": rows[-1]}
    for name in ("ppo", "grpo", "rloo"):
        rows = Policy(name, spelt, batch=8, max_new_tokens=5, entropy=0.02, passes=3).train(30)
        found["word"][name] = [row["reward"] for row in rows]
    for name in ("rloo", "reinforce"):
        policy = Policy(name, worth, batch=32, kl=0.5, rate=0.003)
        policy.train(40)
        values = torch.tensor([worth(policy.tokenizer.decode([token])) for token in range(9)])
        best = policy.chances(policy.reference) * (values / 0.5).exp()
        found["optimum"][name] = [policy.chances(policy.learner.model).tolist(), (best / best.sum()).tolist()]
    return found


if __name__ == "__main__":
    print(json.dumps(solve()))
