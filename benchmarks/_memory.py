"""What training will take in memory, before it is begun."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from langwright.models.model import Model

SMALLEST_IN_8_BITS = 4096
"""Parameters of fewer numbers keep their averages in 32 bits (`training.adamw.LeanAdamW`)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the device, by what they are for.

    weights: the model as it computes, quantised weights included. masters: trained parameters in float32 beside
    working ones in bfloat16. gradients: of the trained. optimizer: AdamW's two averages. activations: what autograd
    keeps of a micro-batch. Short-lived products and the allocator's rounding come on top.
    """

    weights: int
    masters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.masters + self.gradients + self.optimizer + self.activations


def training_memory(
    model: Model, rows: int, context: int, dtype: torch.dtype, optimizer_bits: int = 32, host: bool = False
) -> Memory:
    """What a step of AdamW on micro-batches of `rows` windows takes, for what of a model asks for gradients."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    count = sum(p.numel() for p in trained)
    packed = sum(buffer.nbytes for buffer in model.buffers())
    working = dtype.itemsize
    mixed = dtype != torch.float32
    return Memory(
        weights=packed + working * sum(p.numel() for p in parameters),
        masters=4 * count * mixed,
        gradients=(4 + working * mixed) * count,
        optimizer=0 if host else sum(_averages(p.numel(), optimizer_bits) for p in trained),
        activations=kept_activations(model, rows, context, dtype),
    )


def _averages(numbers: int, bits: int) -> int:
    if bits == 32 or numbers < SMALLEST_IN_8_BITS:
        return 8 * numbers
    return 2 * (numbers + 4 * -(-numbers // 256))


def kept_activations(model: Model, rows: int, context: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps between a forward pass of the body and its way back.

    Counted, not estimated: the pass runs on fake tensors, which have shapes and devices and no numbers. Where blocks
    are computed again (`Stack.recompute`), it is what goes into each, and one block in full.
    """
    body, device = model.body, model.device
    count = _Count()
    hooks = [hook for block in body.blocks for hook in count.watch(block)]
    before = body.training, body.recompute
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes: dict[str, Tensor] = {
            name: nn.Parameter(torch.empty(p.shape, dtype=dtype, device=p.device), p.requires_grad)
            for name, p in body.named_parameters()
        }
        fakes |= {n: torch.empty(b.shape, dtype=b.dtype, device=b.device) for n, b in body.named_buffers()}
        count.pass_over = {tensor.untyped_storage()._cdata for tensor in fakes.values()}
        ids = torch.zeros(rows, context, dtype=torch.long, device=device)
        body.train()
        body.recompute = False
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count.keep, lambda tensor: tensor):
            functional_call(body, fakes, (ids,))
    body.train(before[0])
    body.recompute = before[1]
    for hook in hooks:
        hook.remove()
    if not body.recompute:
        return count.outside + sum(count.blocks)
    return count.outside + sum(count.inputs) + max(count.blocks, default=0)


class _Count:
    """Bytes of storages that are kept, each once: inside of each block, and outside of all; and what goes into each."""

    def __init__(self) -> None:
        self.outside = 0
        self.blocks: list[int] = []
        self.inputs: list[int] = []
        self.pass_over: set[int] = set()
        self._inside = False

    def watch(self, block: nn.Module) -> list[Any]:
        """Hooks that tell when the block is at work."""

        def enter(module: nn.Module, arguments: tuple[Tensor, Any]) -> None:
            self.blocks.append(0)
            self.inputs.append(arguments[0].untyped_storage().nbytes())
            self._inside = True

        def leave(*_: Any) -> None:
            self._inside = False

        return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.pass_over:
            self.pass_over.add(storage._cdata)
            if self._inside:
                self.blocks[-1] += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return tensor
