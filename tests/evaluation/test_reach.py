"""Gradients over distance, against differences of the loss."""

import torch

from langwright.evaluation.reach import gradient_norms
from langwright.models.families.cnn import CNNConfig
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.losses import token_losses
from oracles import perturb


def test_they_are_the_slopes_of_the_loss() -> None:
    """The derivative along a direction, by two losses a little apart."""
    model = new_model("lstm", by_depth("lstm", 2, 11, 16, 0.0, width=64)).double()
    perturb(model)
    ids = torch.randint(11, (1, 7), generator=torch.Generator().manual_seed(0))
    norms = gradient_norms(model, ids)
    assert norms.shape == (6,)
    vectors, table = model.body.embed.tokens.detach()[ids[:, :-1]], model.body.embed
    for distance in (1, 4):
        slopes = []
        for number in range(64):
            losses = []
            for change in (1e-5, -1e-5):
                moved = vectors.clone()
                moved[0, -distance, number] += change
                hook = table.register_forward_hook(lambda module, inputs, output, moved=moved: moved)
                losses.append(token_losses(model.head(model.body(ids[:, :-1])[:, -1]).float(), ids[:, -1]))
                hook.remove()
            slopes.append((losses[0] - losses[1]).item() / 2e-5)
        assert abs(torch.tensor(slopes).norm() - norms[distance - 1]) < 0.1 * norms[distance - 1]
    assert not table._forward_hooks


def test_a_convolution_reaches_as_far_as_its_span() -> None:
    config = CNNConfig(11, 16, num_hidden_layers=3, kernel_size=3, dilation=2)
    model = new_model("cnn", config)
    perturb(model)
    norms = gradient_norms(model, torch.zeros(2, 20, dtype=torch.long))
    assert config.span == 15
    assert ((norms > 0) == (torch.arange(19) < 15)).all()
