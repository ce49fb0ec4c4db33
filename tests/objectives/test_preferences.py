"""Losses of preferences beside hand-worked tables and `trl`, and what must not change them."""

from collections import defaultdict
from dataclasses import replace
from math import exp, log
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from langwright.alignment.references import frozen_copy
from langwright.data.preferences import AnswerExample, RankedExample, preference_batch
from langwright.models.folder import new_model
from langwright.objectives.preferences import (
    DPO,
    IPO,
    ORPO,
    JudgedBatch,
    JudgementOptimisation,
    PairLoss,
    PairOptimisation,
    PreferenceBatch,
    RewardModelling,
    SimPO,
    bradley_terry_losses,
    in_order,
    kto_losses,
    log_odds,
    ranking_losses,
)
from oracles import perturb
from tiny import CONFIG, tiny_model


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def softplus(x: float) -> float:
    return log(1 + exp(x))


def mixed(as_told: float, flipped: float) -> list[float]:
    """Two losses of margins 0.2 and 0.4, and of the same preferences the other way round."""
    return [as_told * softplus(-margin) + flipped * softplus(margin) for margin in (0.2, 0.4)]


# Two pairs: the sums over the tokens of both answers, and how many tokens these are.
DIFFERENCES, LENGTHS = torch.tensor([[1.0, -1.0], [-2.0, -6.0]]), torch.tensor([[2.0, 4.0], [2.0, 4.0]])


@pytest.mark.parametrize(
    ("loss", "wanted", "rewards"),
    [
        (DPO(0.1), [softplus(-0.2), softplus(-0.4)], [0.1, -0.1]),
        (DPO(0.1, smoothing=0.1), mixed(0.9, 0.1), [0.1, -0.1]),
        (DPO(0.1, "robust", 0.1), mixed(0.9 / 0.8, -0.1 / 0.8), [0.1, -0.1]),
        (DPO(0.5, "hinge"), [0.0, 0.0], [0.5, -0.5]),
        (DPO(0.1, "hinge"), [0.8, 0.6], [0.1, -0.1]),
        (IPO(0.1, "sum"), [(2 - 5) ** 2, (4 - 5) ** 2], [0.1, -0.1]),
        (IPO(0.1, "mean"), [(0.5 + 0.25 - 5) ** 2, (-1 + 1.5 - 5) ** 2], [0.05, -0.025]),
        (SimPO(2.0, 1.0), [softplus(1 - 1.5), softplus(1 - 1.0)], [1.0, -0.5]),
    ],
)
def test_the_losses_of_pairs_are_those_worked_out_by_hand(loss: PairLoss, wanted: Any, rewards: Any) -> None:
    losses, found = loss(DIFFERENCES, LENGTHS)
    torch.testing.assert_close(losses, numbers(*wanted))
    torch.testing.assert_close(found[0], numbers(*rewards))


def test_the_odds_ratio_is_that_worked_out_by_hand() -> None:
    log_p = torch.tensor([[-2.0, -6.0]])  # of 2 and 4 tokens: p of a token is e^-1 and e^-1.5
    odds = [log(p / (1 - p)) for p in (exp(-1), exp(-1.5))]
    losses, _ = ORPO(0.1)(log_p, LENGTHS[:1])
    torch.testing.assert_close(losses, numbers(softplus(odds[1] - odds[0])))
    sure = torch.tensor([0.0, -1e-9, -50.0], requires_grad=True)
    log_odds(sure).sum().backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


def test_judged_answers_and_rankings_are_those_worked_out_by_hand() -> None:
    good = torch.tensor([True, False])
    losses = kto_losses(numbers(2, 2), good, numbers(0.5, 0.5), beta=0.1, desirable=1.0, undesirable=2.0)
    torch.testing.assert_close(losses, numbers(1 - 1 / (1 + exp(-0.15)), 2 * (1 - 1 / (1 + exp(0.15)))))
    torch.testing.assert_close(
        bradley_terry_losses(numbers(1, 1), numbers(0, 0), numbers(0, 0.5)), numbers(softplus(-1), softplus(-0.5))
    )
    scores = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 99.0]], requires_grad=True)
    there = torch.tensor([[True, True, True], [True, True, False]])
    first = -log(exp(2) / (exp(2) + exp(1) + 1)) - log(exp(1) / (exp(1) + 1))
    ranked = ranking_losses(scores, there)
    torch.testing.assert_close(ranked, numbers(first, softplus(-1)))
    ranked.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert scores.grad[1, 2] == 0  # what is not there learns nothing
    share, margin = in_order(torch.tensor([[2.0, 1.0, 1.0], [0.0, 1.0, 99.0]]), there)
    torch.testing.assert_close(share, numbers(2.5 / 3, 0))
    torch.testing.assert_close(margin, numbers((1 + 1 + 0) / 3, -1))


def batch(seed: int = 0, rows: int = 4, more: int = 0, rankings: int = 0) -> PreferenceBatch:
    """Pairs of random answers; more: columns of padding; rankings: rows of three answers behind the pairs."""
    drawn = torch.Generator().manual_seed(seed)

    def answer() -> AnswerExample:
        length = int(torch.randint(5, 13, (), generator=drawn))
        return AnswerExample(torch.randint(0, 29, (length,), generator=drawn).numpy(), 3)

    examples = [[RankedExample((answer(), answer()), float(i % 2))] for i in range(rows)]
    examples += [[RankedExample((answer(), answer(), answer()))] for _ in range(rankings)]
    return preference_batch(examples, torch.arange(len(examples)).numpy(), lambda longest: longest + more)


def judged(more: int = 0) -> JudgedBatch:
    pairs = batch(more=more)
    return JudgedBatch(pairs.ids, pairs.mask, pairs.written, torch.tensor([True, False, True, True]))


def models() -> dict[str, Any]:
    """A policy that has moved, and its reference."""
    policy, reference = tiny_model(), tiny_model()
    perturb(policy)
    return {"model": policy, "reference": reference.requires_grad_(False)}


OBJECTIVES: dict[str, Any] = {
    "dpo": PairOptimisation(DPO(), frozen_copy),
    "ipo": PairOptimisation(IPO(), frozen_copy),
    "simpo": PairOptimisation(SimPO(), frozen_copy),
    "orpo": PairOptimisation(ORPO(), frozen_copy),
    "kto": JudgementOptimisation(frozen_copy),
}


def loss_of(objective: Any, batch: Any, models: Any) -> Tensor:
    counts, terms = objective.counts(batch), objective(models, batch)
    return torch.stack([weight * terms[name] / counts[name] for name, weight in objective.weights.items()]).sum()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_changes_nothing_and_parts_add_up_to_the_whole(name: str) -> None:
    objective, both = OBJECTIVES[name], models()
    make = judged if name == "kto" else batch
    whole, padded = objective(both, make()), objective(both, make(more=3))
    for term, value in whole.items():
        torch.testing.assert_close(padded[term], value, msg=f"{term} changes with padding")
    assert objective.counts(make()) == objective.counts(make(more=3))
    rows = make()
    if isinstance(rows, JudgedBatch):  # what a whole step is compared with is known to each of its parts
        rows = replace(rows, kl=objective(both, rows)["kl"].div(len(rows)).detach().expand(len(rows)))
    parts = [objective(both, rows.rows(start, start + 1)) for start in range(len(rows))]
    for term, value in whole.items():
        torch.testing.assert_close(torch.stack([part[term] for part in parts]).sum(), value)


def test_pairs_keep_their_margins_beside_rankings() -> None:
    scorer = {"model": new_model("gpt2", CONFIG, 1, "sequence", ("reward",)).eval()}
    objective, rows = RewardModelling(centring=0.1), batch(rankings=2)
    whole = objective(scorer, rows)
    alone = [objective(scorer, batch()), *(objective(scorer, rows.rows(i, i + 1)) for i in (4, 5))]
    for term, value in whole.items():
        torch.testing.assert_close(torch.stack([part[term] for part in alone]).sum(), value, msg=term)


def test_a_policy_that_has_not_moved_has_rewards_of_zero_and_loses_ln_2() -> None:
    both = {"model": tiny_model(), "reference": tiny_model().requires_grad_(False)}
    terms = OBJECTIVES["dpo"](both, batch())
    assert float(terms["pairs"]) == pytest.approx(4 * log(2), abs=1e-7)
    assert all(float(terms[name]) == 0 for name in ("reward", "rejected_reward", "margin", "kl"))
    assert float(terms["accuracy"]) == 2  # a tie counts half
    assert float(OBJECTIVES["kto"](both, judged())["judgements"]) == 2


def test_log_probabilities_are_those_of_the_logits() -> None:
    model, pairs = tiny_model(), batch()
    logits = model(pairs.ids.flatten(0, 1)).log_softmax(-1)[:, :-1].view(4, 2, -1, 29)
    wanted = logits.gather(-1, pairs.ids[..., 1:, None])[..., 0] * pairs.written[..., 1:]
    torch.testing.assert_close(pairs.log_probabilities(pairs.projection(model)), wanted)
    torch.testing.assert_close(pairs.log_probabilities(pairs.projection(model, 1), 1)[:, 0], wanted[:, 1])
    both = models()
    policy, reference = (both[name](pairs.ids.flatten(0, 1)).log_softmax(-1)[:, :-1] for name in both)
    exact = (policy.exp() * (policy - reference)).sum(-1).view(4, 2, -1) * pairs.written[..., 1:]
    torch.testing.assert_close(OBJECTIVES["dpo"](both, pairs)["kl"], exact.sum() / 2)


class Passes:
    """What `trl`'s trainers ask of accelerate, in one process."""

    device = torch.device("cpu")

    @staticmethod
    def gather_for_metrics(x: Tensor) -> Tensor:
        return x

    gather = gather_for_metrics


def given(log_probabilities: Tensor) -> Any:
    """A model of `trl` that gives these log-probabilities; the rest is for metrics alone."""
    rest = dict.fromkeys(("entropy", "logits", "mean_logits"), torch.zeros_like(log_probabilities))
    answer = SimpleNamespace(log_probs=log_probabilities, is_top1=log_probabilities > 0, **rest)
    return lambda **inputs: answer


def trainer(**settings: Any) -> Any:
    """What a loss of `trl` needs of its trainer."""
    metrics: dict[str, Any] = {mode: defaultdict(list) for mode in ("train", "eval")}
    args = SimpleNamespace(gradient_checkpointing_kwargs=None, center_rewards_coefficient=None)
    made = MagicMock(
        accelerator=Passes(), ld_alpha=None, precompute_ref_logps=False, use_weighting=False, aux_loss_enabled=False,
        f_divergence_type="reverse_kl", loss_weights=[1.0], _metrics=metrics, args=args, _total_train_tokens=0,
    )  # fmt: skip
    for name, value in settings.items():
        setattr(made, name, value)
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loss", "kind"),
    [(DPO(0.3), "sigmoid"), (DPO(0.3, "robust", 0.2), "robust"), (DPO(0.3, "hinge"), "hinge"), (IPO(0.3), "ipo")],
)
def test_pairs_lose_what_they_lose_in_trl(loss: PairLoss, kind: str) -> None:
    from trl import DPOTrainer

    both, pairs = models(), batch()
    sides = {name: pairs.log_probabilities(pairs.projection(model)).detach() for name, model in both.items()}
    flat = {name: torch.cat([side[:, 0], side[:, 1]]) for name, side in sides.items()}
    order = [torch.cat([x[:, 0], x[:, 1]]) for x in (pairs.ids, pairs.mask, pairs.written)]
    inputs = dict(zip(("input_ids", "attention_mask", "completion_mask"), (t.long() for t in order), strict=True))
    smoothing = loss.smoothing if isinstance(loss, DPO) else 0.0
    stub = trainer(beta=loss.beta, loss_types=[kind], label_smoothing=smoothing, ref_model=given(flat["reference"]))
    theirs = DPOTrainer._compute_loss(stub, given(flat["model"]), inputs, False)
    ours = loss_of(PairOptimisation(loss, frozen_copy), pairs, both)
    torch.testing.assert_close(ours.detach(), theirs)


@pytest.mark.filterwarnings("ignore")
def test_trl_passes_over_the_smoothing_of_its_sigmoid_which_is_honoured_here() -> None:
    """`trl`'s "sigmoid" gives the same loss with any `label_smoothing`; its "aot" of one pair is cDPO."""
    from trl import DPOTrainer

    pair, both = batch(rows=1), models()
    sides = {name: pair.log_probabilities(pair.projection(model))[0].detach() for name, model in both.items()}
    names = {"input_ids": pair.ids, "attention_mask": pair.mask, "completion_mask": pair.written}
    inputs = {name: value[0].long() for name, value in names.items()}

    def theirs(kind: str, smoothing: float) -> Tensor:
        stub = trainer(beta=0.3, loss_types=[kind], label_smoothing=smoothing, ref_model=given(sides["reference"]))
        return DPOTrainer._compute_loss(stub, given(sides["model"]), inputs, False)

    assert theirs("sigmoid", 0.2) == theirs("sigmoid", 0.0)
    ours = loss_of(PairOptimisation(DPO(0.3, smoothing=0.2), frozen_copy), pair, both)
    torch.testing.assert_close(ours.detach(), theirs("aot", 0.2))


@pytest.mark.filterwarnings("ignore")
def test_judged_answers_lose_what_they_lose_in_trl() -> None:
    from trl import KTOTrainer

    both, rows = models(), judged()
    sides = {name: rows.log_probabilities(rows.projection(model)).detach() for name, model in both.items()}
    inputs: dict[str, Any] = {
        "input_ids": rows.ids[:, 0], "attention_mask": rows.mask[:, 0].long(),
        "completion_mask": rows.written[:, 0].long(), "label": rows.good,
    }  # fmt: skip
    reference = given(sides["reference"][:, 0])
    stub = trainer(
        beta=0.3, loss_type="kto", calculate_KL=True, desirable_weight=1.5, undesirable_weight=0.7, ref_model=reference
    )
    stub._compute_kl_logps = lambda model, batch: sides["reference" if model is reference else "model"][:, 1].sum(-1)
    theirs = KTOTrainer._compute_loss(stub, given(sides["model"][:, 0]), inputs, False)
    ours = loss_of(JudgementOptimisation(frozen_copy, 0.3, 1.5, 0.7), rows, both)
    torch.testing.assert_close(ours.detach(), theirs)


@pytest.mark.filterwarnings("ignore")
def test_odds_ratios_are_those_of_trl() -> None:
    from trl.experimental.orpo import ORPOTrainer

    means = DIFFERENCES.neg().abs().neg() / LENGTHS
    stub = trainer(beta=0.3)
    theirs, chosen, _, _, _ = ORPOTrainer.odds_ratio_loss(stub, means[:, 0], means[:, 1])
    losses, rewards = ORPO(0.3)(means * LENGTHS, LENGTHS)
    torch.testing.assert_close(-0.3 * losses, theirs)  # theirs is added with a minus
    torch.testing.assert_close(rewards[:, 0], chosen)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_a_reward_model_loses_what_it_loses_in_trl(centring: float) -> None:
    from trl import RewardTrainer

    model, pairs = new_model("gpt2", CONFIG, 1, "sequence", ("reward",)).eval(), batch()
    perturb(model)
    scores = pairs.scores(model)
    torch.testing.assert_close(scores, model(pairs.ids.flatten(0, 1), pairs.mask.flatten(0, 1)).view(4, 2))
    stub = trainer(model=model)
    stub.args.center_rewards_coefficient = centring or None
    logits = SimpleNamespace(logits=torch.cat([scores[:, :1], scores[:, 1:]]))
    inputs = {"margin": pairs.margins, "attention_mask": pairs.mask.flatten(0, 1).long()}
    stub.maybe_activation_offload_context = None

    def told(**named: Any) -> Any:
        return logits

    theirs = RewardTrainer.compute_loss(stub, told, inputs)
    torch.testing.assert_close(loss_of(RewardModelling(centring), pairs, {"model": model}), theirs)
