"""bf16 weights beside fp32 masters, or plain fp32."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Masters:
    """The fp32 parameters that an optimizer changes, and the working copies that a model computes with.

    With a working dtype of float32 both are the same tensors. With bfloat16 the model holds bf16 weights; gradients
    of each micro-batch are added to the masters' in fp32 (Micikevicius et al., 2018).
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        names, parameters = zip(*model.named_parameters(), strict=True)
        self.shared = dtype == torch.float32
        self.working: list[nn.Parameter] = list(parameters)
        masters = parameters if self.shared else [nn.Parameter(p.detach().float()) for p in parameters]
        self.named: dict[str, nn.Parameter] = dict(zip(names, masters, strict=True))
        if not self.shared:
            for parameter in self.working:
                parameter.data = parameter.data.to(dtype)

    @property
    def parameters(self) -> Iterable[nn.Parameter]:
        """The fp32 parameters, in the model's order."""
        return self.named.values()

    def zero_gradients(self) -> None:
        """Forget all gradients."""
        for parameter in (*self.working, *self.parameters):
            parameter.grad = None

    @torch.no_grad()
    def gather(self) -> None:
        """Add the working copies' gradients to the masters' in fp32."""
        if self.shared:
            return
        for working, master in zip(self.working, self.parameters, strict=True):
            if working.grad is None:
                continue
            if master.grad is None:
                master.grad = working.grad.float()
            else:
                master.grad += working.grad
            working.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the working copies."""
        if not self.shared:
            torch._foreach_copy_([*self.working], [*self.parameters])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the masters' values from tensors of the same names."""
        for name, master in self.named.items():
            master.copy_(tensors[name])
        self.publish()
