"""Adapters under torch.compile: other numbers in the same adapter ask for no new code."""

import subprocess
import sys

PROGRAM = """
import torch
from torch._dynamo.utils import counters
from langwright.adaptation.methods.lora import LoRA
from langwright.models.folder import new_model
from langwright.models.families.llama import LlamaConfig

shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
model, method = new_model("llama", LlamaConfig(vocab_size=53, **shape)).eval(), LoRA(rank=2)
method.attach(model)
compiled, ids = torch.compile(model, backend="eager"), torch.arange(8)[None]
with torch.no_grad():
    before = compiled(ids)
    assert counters["stats"]["unique_graphs"] == 1
    noise = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(tensor.shape, generator=noise) for key, tensor in method.tensors(model).items()}
    method.load(model, "default", tensors)
    with torch.compiler.set_stance("fail_on_recompile"):
        after = compiled(ids)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, model(ids))
"""


def test_other_numbers_are_taken_up_without_compiling_again() -> None:
    """In a process of its own: the checks of shapes that tests run under are not to be compiled."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=300)
