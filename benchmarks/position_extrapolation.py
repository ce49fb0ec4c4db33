"""Train at one length, read at twice and four times that: what each way of telling positions makes of it.

    python benchmarks/position_extrapolation.py [--length 64] [--steps 400] [--seed 0]

Tiny byte models that differ in nothing but their positions learn the built-in corpus (Python's own library) in texts of
`--length` bytes. Each then predicts the same held-out bytes, `length / 4` at a time, after reading up to 1, 2 and 4
lengths of text that end with them. The table gives bits per byte: with positions that extrapolate, more to read is no
harm. The last rows stretch the trained RoPE model, without further training.
"""

import argparse
import math
import time
from dataclasses import replace
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from langwright.corpora.files import open_python_stdlib
from langwright.parts.attention import Attention
from langwright.parts.bias import Alibi, Bias
from langwright.parts.feedforward import GLU
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope, sinusoids
from langwright.parts.rope_scaling import DynamicScaling, LinearScaling, YarnScaling
from langwright.parts.stack import Block, Embedding, Residual, Stack

DIM, HEADS, LAYERS, BYTES = 64, 4, 2, 256
TIMES = (1, 2, 4)


class WithSinusoids(Embedding):
    """Token vectors plus computed position vectors, scaled as in the paper so that neither drowns the other."""

    def forward(
        self, ids: Int[Tensor, "batch time"], positions: Int[Tensor, "#batch time"]
    ) -> Float[Tensor, "batch time dim"]:
        return math.sqrt(DIM) * super().forward(ids, positions) + sinusoids(positions, DIM)


def build(kind: str, length: int, seed: int) -> Stack:
    """A pre-norm decoder; `kind` is learned, sinusoidal, rope, alibi or none."""

    def norm() -> Norm:
        return Norm(DIM, "rms", 1e-6)

    def block() -> Block:
        bias = Bias(causal=True, term=Alibi(HEADS) if kind == "alibi" else None)
        return Block(Residual(Attention(DIM, HEADS), norm()), Residual(GLU(DIM, 3 * DIM, "silu"), norm()), bias)

    if kind == "sinusoidal":
        embed: Embedding = WithSinusoids(BYTES, DIM)
    else:
        embed = Embedding(BYTES, DIM, max(TIMES) * length if kind == "learned" else None)
    rope = Rope(DIM // HEADS) if kind == "rope" else None
    stack = Stack(embed, [block() for _ in range(LAYERS)], norm(), rope)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stack.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1)
            else:
                std = DIM**-0.5 if parameter is embed.tokens else parameter.shape[-1] ** -0.5 / 2
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return stack


def logits(stack: Stack, ids: Tensor) -> Tensor:
    """Scores of the next byte, by the embedding table itself."""
    return stack(ids) @ stack.embed.tokens.T


def train(stack: Stack, data: Tensor, length: int, steps: int, seed: int) -> None:
    """AdamW on 32 texts a step, the rate falling to zero."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(stack.parameters(), 3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 50) * (1 - s / steps))
    for _ in range(steps):
        starts = torch.randint(len(data) - length, (32, 1), generator=generator)
        text = data[starts + torch.arange(length + 1)].long()
        loss = F.cross_entropy(logits(stack, text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stack.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def bits(stack: Stack, data: Tensor, length: int, longest: int) -> float:
    """Bits per byte of the last `longest / 16` bytes of texts of `length` that end at the same places."""
    counted = longest // 16
    ends = torch.arange(longest, len(data), longest)[:, None]
    text = data[ends - length + torch.arange(length + 1)[None] - 1].long()
    last = logits(stack, text[:, :-1])[:, -counted:]
    return float(F.cross_entropy(last.flatten(0, 1), text[:, -counted:].flatten())) / math.log(2)


def main() -> None:
    """Train, stretch, measure; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    texts = [document.text.encode() for document in islice(open_python_stdlib(), 400)]
    data = torch.frombuffer(bytearray(b"\n".join(texts)), dtype=torch.uint8)
    held = data[-len(data) // 50 :][:16384]
    data = data[: -len(data) // 50]
    print("| positions | " + " | ".join(f"T = {n * given.length}" for n in TIMES) + " |\n|---|---|---|---|")

    def row(name: str, stack: Stack) -> None:
        figures = [bits(stack, held, n * given.length, max(TIMES) * given.length) for n in TIMES]
        print(f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)

    start, trained = time.perf_counter(), {}
    for kind in ("learned", "sinusoidal", "rope", "alibi", "none"):
        trained[kind] = build(kind, given.length, given.seed)
        train(trained[kind], data, given.length, given.steps, given.seed)
        row(kind, trained[kind])
    stack = trained["rope"]
    assert stack.rope is not None
    plain, factor = stack.rope, float(max(TIMES))
    for name, scaling in (
        ("rope, linear 4", LinearScaling(factor)),
        ("rope, dynamic 4", DynamicScaling(factor, given.length)),
        ("rope, YaRN 4", YarnScaling(factor, given.length)),
    ):
        stack.rope = replace(plain, scaling=scaling)
        row(name, stack)
    print(f"\n{given.steps} steps of 32 texts of {given.length} bytes; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
