"""What one step of training changes."""

import dataclasses
from pathlib import Path

import pytest
import torch

from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.parts.moe import load_balance
from langwright.parts.state import Taps
from langwright.training.learner import Learner
from tiny import RECIPE, TinyBatches, batch_of, same, tiny_learner, tiny_model, tiny_run, weights


def gradients(micro_batch: int | None, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    learner = tiny_learner(micro_batch=micro_batch, dtype=dtype)
    learner.backward(batch_of(3))
    return {name: p.grad.clone() for name, p in learner.masters.named.items() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_equal_one_batch(micro_batch: int) -> None:
    whole, parts = gradients(None), gradients(micro_batch)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_mean_over_targets() -> None:
    learner, batch = tiny_learner(), batch_of(3)
    found = learner.backward(batch)
    logits = learner.model(batch.ids)
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    assert float(found.tokens) == float(batch.weights.sum()) < batch.weights.numel()
    assert float(found.loss) == pytest.approx(((each * batch.weights).sum() / batch.weights.sum()).item(), rel=1e-5)


def test_a_step_equals_torch_by_hand() -> None:
    """One step of ours is one of a plain PyTorch loop: mean loss, clip, AdamW with decay on matrices only."""
    learner, batch = tiny_learner(clip=0.5), batch_of(3)
    learner.backward(batch)
    learner.clip()
    learner.step(0.5)
    model = tiny_model()
    each = torch.nn.functional.cross_entropy(model(batch.ids).transpose(1, 2), batch.targets, reduction="none")
    ((each * batch.weights).sum() / batch.weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    decay = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1}]
    plain = [{"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    torch.optim.AdamW(decay + plain, lr=0.5e-2, betas=(0.9, 0.95)).step()
    for name, value in weights(model).items():
        torch.testing.assert_close(learner.masters.named[name].data, value, rtol=1e-5, atol=2e-5)


def test_bf16_weights_follow_fp32_masters() -> None:
    learner = tiny_learner(dtype=torch.bfloat16)
    assert {p.dtype for p in learner.model.parameters()} == {torch.bfloat16}
    before = {name: p.detach().clone() for name, p in learner.masters.named.items()}
    for step in range(3):
        learner.backward(batch_of(step))
        learner.clip()
        learner.step(1e-4)  # steps far too small for bf16 to hold
    for (name, master), working in zip(learner.masters.named.items(), learner.model.parameters(), strict=True):
        assert master.dtype == torch.float32
        assert torch.equal(working.data, master.data.bfloat16())
        if name.endswith("weight"):
            assert not torch.equal(master.data, before[name])


def test_bf16_gradients_add_up_in_fp32() -> None:
    """Sixteen equal micro-batches give sixteen times the gradient; in bf16 sums the small parts would be lost."""
    batch = batch_of(3, rows=1)
    many = TokenBatch(batch.ids.repeat(16, 1), batch.targets.repeat(16, 1), batch.weights.repeat(16, 1))
    one, sixteen = tiny_learner(dtype=torch.bfloat16), tiny_learner(dtype=torch.bfloat16, micro_batch=1)
    one.backward(batch)
    sixteen.backward(many)
    for a, b in zip(one.masters.named.values(), sixteen.masters.named.values(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert b.grad.dtype == torch.float32
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-2, atol=1e-5)


def test_culprits_are_named_by_sample_number() -> None:
    learner, batch = tiny_learner(), batch_of(3)
    with torch.no_grad():
        learner.model.body.embed.tokens[7] = float("nan")
    with_seven = batch.samples[(batch.ids == 7).any(1)].tolist()
    ids = batch.ids.clone()
    ids[ids == 7] = 8
    assert with_seven
    head = learner.model.head.weight.detach().clone()
    learner.model.head.weight = torch.nn.Parameter(torch.nan_to_num(head))  # only the input is poisoned
    assert learner.culprits(batch) == with_seven


class Drawn(TinyBatches):
    """Batches with a state."""

    drawn, updates = 0, 1

    def next(self, models: object) -> TokenBatch:
        self.drawn += 1
        return batch_of(self.drawn)

    def state(self) -> dict[str, torch.Tensor]:
        return {"drawn": torch.tensor(self.drawn)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.drawn = int(state["drawn"])


def test_measuring_a_step_leaves_no_trace() -> None:
    learner, batches = tiny_learner(dropout=0.1), Drawn()
    before, random = weights(learner.model), torch.get_rng_state()
    assert tiny_run(Path("nowhere"), learner, batches=batches).measure_step() > 0
    assert batches.drawn == 0
    assert same(weights(learner.model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert not learner.tensors()


def test_what_balances_experts_is_part_of_the_loss() -> None:
    """It counts once for every target, and only where the config asks for it."""
    config = dataclasses.replace(by_depth("mixtral", 2, 29, 16, 0.0, width=64), router_aux_loss_coef=0.25)
    silent = dataclasses.replace(config, output_router_logits=False)
    without, with_it = (new_model("mixtral", c, seed=1) for c in (silent, config))
    batch, taps = batch_of(3), Taps("router")
    without.body(batch.ids, taps=taps)
    chances = [logits.softmax(-1) for logits in taps.get("router")]
    one = torch.ones(*batch.ids.shape, 1)
    shares = torch.stack([load_balance(each, each.topk(2, -1).indices, one)[:, 0] for each in chances])
    expected = (
        TokenPrediction()({"model": without}, batch)["tokens"] + 0.25 * (shares.mean(0) * batch.weights.sum(1)).sum()
    )
    loss = sum(TokenPrediction()({"model": with_it}, batch).values())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert with_it.body.blocks[0].feedforward.fn.router.weight.grad.abs().sum() > 0


def test_only_what_asks_for_gradients_is_trained() -> None:
    frozen = tiny_model()
    for name, p in frozen.named_parameters():
        p.requires_grad_(name.endswith("norm.weight"))
    held = {name: p.detach().clone() for name, p in frozen.named_parameters()}
    learner = Learner({"model": frozen}, TokenPrediction(), torch.bfloat16, RECIPE)
    assert set(learner.masters.named) == {name for name in held if name.endswith("norm.weight")}
    learner.backward(batch_of(3))
    learner.step(1.0)
    for name, p in frozen.named_parameters():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p.detach(), held[name].bfloat16()) != name.endswith("norm.weight"), name


def test_nothing_to_train_is_an_error() -> None:
    model = tiny_model().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        Learner({"model": model}, TokenPrediction(), torch.float32, RECIPE)
