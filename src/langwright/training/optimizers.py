"""Which optimizer moves which parameter, and how fast."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from langwright.parts.attention import Attention
from langwright.parts.heads import LanguageHead
from langwright.training.adamw import LeanAdamW
from langwright.training.muon import Muon
from langwright.training.recipe import TrainingRecipe


def make_optimizers(
    named: Mapping[str, nn.Parameter], recipe: TrainingRecipe, factor: Callable[[str], float] = lambda name: 1.0
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's parameters, each in exactly one of them; "peak" in a group is its learning rate.

    Matrices decay, vectors (norms, biases) do not. Muon has the matrices of the blocks; embeddings, heads and tables of
    distances are AdamW's then, without decay.

    Args:
        named: the parameters by name.
        recipe: kinds and peaks; its learning rate is given.
        factor: what the usual peak of a parameter is multiplied by, given its name.
    """
    assert recipe.learning_rate is not None
    muon: dict[float, list[nn.Parameter]] = {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        path = name.split(".")
        embedding, head = "embed" in path, path[0] == "head"
        if recipe.optimizer == "muon" and parameter.ndim == 2 and "blocks" in path:
            muon.setdefault(factor(name) * recipe.muon_learning_rate, []).append(parameter)
            continue
        own = recipe.embedding_learning_rate if embedding else recipe.head_learning_rate if head else None
        peak = own or factor(name) * recipe.learning_rate
        decays = parameter.ndim > 1 and recipe.optimizer == "adamw"
        groups.setdefault((peak, recipe.weight_decay if decays else 0.0), []).append(parameter)
    adamw = [{"params": ps, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), ps in groups.items()]
    if recipe.optimizer == "sgd":
        plain = [{**group, "weight_decay": 0.0} for group in adamw]
        return [torch.optim.SGD(plain, fused=True)]
    betas, bits, host = (recipe.beta1, recipe.beta2), recipe.optimizer_bits, recipe.optimizer_host
    made: list[torch.optim.Optimizer] = (
        [torch.optim.AdamW(adamw, betas=betas, fused=True)]
        if bits == 32 and not host
        else [LeanAdamW(adamw, betas=betas, bits=bits, host=host)]
    )
    if muon:
        matrices = [{"params": ps, "peak": peak} for peak, ps in muon.items()]
        made.append(Muon(matrices, recipe.muon_learning_rate, recipe.weight_decay))
    return made


def scale_factors(model: nn.Module) -> dict[str, float]:
    """What learning rates are multiplied by, by the parameter's name, where products are not scaled as usual.

    T5 does not divide scores by sqrt(head_dim), but logits by sqrt(width). A step of the usual size then moves scores
    too far, so that soon each query reads one key and learns no more, and logits too little. At width 256 the loss of
    masked spans was 5.97 after 20 steps instead of 7.36 with the table at 20 times the usual rate.
    """
    factors: dict[Tensor, float] = {}
    for module in model.modules():
        if isinstance(module, Attention) and module.scale > module.head_dim**-0.5:
            factors |= dict.fromkeys(module.q.parameters(), module.head_dim**-0.5 / module.scale)
        elif isinstance(module, LanguageHead) and module.scale < 1:
            factors[module.weight] = 1 / module.scale
    return {name: factors[parameter] for name, parameter in model.named_parameters() if parameter in factors}


def learning_rate_factor(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """Of the peak, in step `step` (from 0) of `steps`: warm-up, then decay; the last step has almost reached `final`.

    "linear" and "cosine" fall from the peak at once; "trapezoid" stays there and falls over the last `decay` of a run,
    and "halving" is halved there `halvings` times, at equal distances, the first time where it begins to fall.
    """
    done = (step + 1) / (steps + 1)
    if done < recipe.warmup:
        return done / recipe.warmup
    fall = recipe.decay if recipe.schedule in ("trapezoid", "halving") else 1 - recipe.warmup
    left = min(1.0, (1 - done) / fall) if fall else 1.0
    if recipe.schedule == "halving":
        flat = round((1 - recipe.decay) * steps)
        times = 1 + (step - flat) * recipe.halvings // (steps - flat) if step >= flat else 0
        return recipe.final + (1 - recipe.final) * 0.5**times
    shape = (1 - math.cos(math.pi * left)) / 2 if recipe.schedule == "cosine" else left
    return recipe.final + (1 - recipe.final) * shape
