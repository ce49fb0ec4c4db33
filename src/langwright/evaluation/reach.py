"""How far back a prediction is felt: gradients over distance, in which vanishing is seen."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from langwright.models.model import Model
from langwright.objectives.losses import token_losses


def gradient_norms(model: Model, ids: Int[Tensor, "batch time"]) -> Float[Tensor, " distances"]:
    """How strongly the loss of the last token depends on the vector of the token k places before it.

    This is |d loss_t / d x_(t-k)|, the mean over rows, where x are token vectors; a gradient that falls with k by a
    factor at every step is what Bengio et al. (1994) called vanishing.

    Args:
        model: of one stack; it is left as it is.
        ids: texts; the last column is predicted from those before it.

    Returns:
        The norm for k = 1 (the token before the predicted one), 2, and so on.
    """
    vectors: list[Tensor] = []

    def watch(module: Any, inputs: Any, output: Tensor) -> Tensor:
        vectors.append(output.detach().requires_grad_())
        return vectors[0]

    hook = model.body.embed.register_forward_hook(watch)
    try:
        with torch.enable_grad():
            logits = model.head(model.body(ids[:, :-1])[:, -1])
            (gradient,) = torch.autograd.grad(token_losses(logits, ids[:, -1]).sum(), vectors)
    finally:
        hook.remove()
    return gradient.norm(dim=-1).mean(0).flip(0)
