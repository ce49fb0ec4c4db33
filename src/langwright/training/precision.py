"""bf16 weights beside fp32 masters, or plain fp32."""

import torch
from torch import Tensor, nn


class Masters:
    """The fp32 parameters that an optimizer changes, and the working copies that models compute with.

    Those are the parameters that ask for gradients; frozen ones are only turned into the working dtype.
    With a working dtype of float32 both are the same tensors. With bfloat16 the models hold bf16 weights; gradients
    of each micro-batch are added to the masters' in fp32 (Micikevicius et al., 2018).
    """

    def __init__(self, models: nn.ModuleDict, dtype: torch.dtype):
        """Divide the parameters of some models; those of the one called "model" have their names without it."""
        trained = [(name.removeprefix("model."), p) for name, p in models.named_parameters() if p.requires_grad]
        if not trained:
            raise ValueError("nothing to train: no parameter of the models asks for gradients")
        names, parameters = zip(*trained, strict=True)
        self.shared = dtype == torch.float32
        self.working: list[nn.Parameter] = list(parameters)
        masters = parameters if self.shared else [nn.Parameter(p.detach().float()) for p in parameters]
        self.named: dict[str, nn.Parameter] = dict(zip(names, masters, strict=True))
        self._kept: dict[str, Tensor] = {}  # the masters' gradients, kept from step to step: new memory is slow
        if not self.shared:
            for parameter in models.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(dtype)

    def zero_gradients(self) -> None:
        """Forget all gradients."""
        for parameter in (*self.working, *self.named.values()):
            parameter.grad = None

    @torch.no_grad()
    def gather(self) -> None:
        """Add the working copies' gradients to the masters' in fp32."""
        if self.shared:
            return
        first: list[tuple[Tensor, Tensor]] = []
        more: list[tuple[Tensor, Tensor]] = []
        for working, (name, master) in zip(self.working, self.named.items(), strict=True):
            if working.grad is None:
                continue
            pairs = more
            if master.grad is None:
                if name not in self._kept:
                    self._kept[name] = torch.empty_like(master)
                master.grad, pairs = self._kept[name], first
            pairs.append((master.grad, working.grad))
            working.grad = None
        for change, pairs in ((torch._foreach_copy_, first), (torch._foreach_add_, more)):
            if pairs:
                change([ours for ours, _ in pairs], [theirs for _, theirs in pairs])

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the working copies."""
        if not self.shared:
            torch._foreach_copy_([*self.working], [*self.named.values()])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the masters' values from tensors of the same names."""
        for name, master in self.named.items():
            master.copy_(tensors[name])
        self.publish()
