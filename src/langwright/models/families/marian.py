"""Marian (Junczys-Dowmunt et al., 2018): BART with sinusoids, which is the Transformer of 2017 (Vaswani et al.)."""

from dataclasses import replace
from functools import partial

from torch import nn

from langwright.models.config import Fields
from langwright.models.families.bart import BART, BartConfig, build, sizes
from langwright.models.family import AdapterTargets
from langwright.models.initialise import by_sides
from langwright.parts import Embedding, sinusoids


def embedding(config: BartConfig, tied: nn.Parameter | None = None) -> Embedding:
    """Sinusoids, which no file holds, and no norm. tied: the table of the other stack."""
    c = config
    wave = partial(sinusoids, dim=c.d_model, halves=True)
    return Embedding(c.vocab_size, c.d_model, dropout=c.dropout, scale=c.scale(), sinusoids=wave, tied=tied)


TRANSFORMER: Fields = {
    "vocab_size": 37000, "activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
"""What both shapes of "Attention Is All You Need" have; one vocabulary for English and German."""

MARIAN = replace(
    BART,
    name="marian",
    architecture="MarianMTModel",
    heads={},
    builder=partial(build, embedding=embedding, source_bos=False),
    initialise=by_sides,
    also=("MarianModel",),
    defaults={
        "vocab_size": 58101, "decoder_start_token_id": 58100, "forced_eos_token_id": 0, "eos_token_id": 0,
        "pad_token_id": 58100,
    },
    fresh={"scale_embedding": True, "activation_function": "relu"},
    default_only={
        **BART.default_only, "normalize_embedding": False, "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
    },
    ignored_keys=(".embed_positions.weight",),
    adapters=AdapterTargets(ia3=("k_proj", "v_proj"), ia3_inputs=("fc2",)),
    presets={
        "transformer-base": sizes(6, 8, 512, 2048, **TRANSFORMER),
        "transformer-big": sizes(6, 16, 1024, 4096, **TRANSFORMER),
    },
)  # fmt: skip
