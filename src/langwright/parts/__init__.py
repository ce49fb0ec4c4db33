"""Floor 1: the parts that every family is built from. No family names and no files here."""

import torch

from langwright.parts.attention import Attention
from langwright.parts.bias import Alibi, Bias, RelativeBias
from langwright.parts.convolution import CausalConvolution
from langwright.parts.feedforward import GLU, MLP
from langwright.parts.heads import LabelHead, LanguageHead, MaskedHead
from langwright.parts.linear import Linear
from langwright.parts.moe import MoE
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope, sinusoids
from langwright.parts.recurrent import Bidirectional, Recurrent
from langwright.parts.stack import Block, Embedding, MixerBlock, ParallelBlock, Residual, Stack

__all__ = [
    "GLU", "MLP", "Alibi", "Attention", "Bias", "Bidirectional", "Block", "CausalConvolution", "Embedding", "LabelHead",
    "LanguageHead", "Linear", "MaskedHead", "MixerBlock", "MoE", "Norm", "ParallelBlock", "Recurrent", "RelativeBias",
    "Residual", "Rope", "Stack", "sinusoids",
]  # fmt: skip

# MKL's vector mathematics (cos, sin, exp, log, tanh, erf, sqrt and others of float32 and float64; not softmax, GELU,
# rsqrt or any bfloat16) finds out at its first call what CPU it runs on, and stores the answer twice: first a raw
# number, then, a few instructions later, the row of its kernel table that the number stands for
# (`mkl_vml_serv_cpu_detect` of MKL 2024.2, in torch 2.13). A second thread that reads between the two takes a kernel of
# low accuracy: the first cosines of a process are off by 1.5e-4 in its half (on Intel's CPUs, in 4 of 40 processes of
# two threads), and all later ones are right. One element is never shared out among threads, so this call settles it.
torch.zeros(1, dtype=torch.float32, device="cpu").cos()
