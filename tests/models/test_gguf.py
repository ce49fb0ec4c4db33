"""GGUF files: llama.cpp reads ours with the same text, we read them with the same logits, and no broken one gets in."""

import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langwright import load_model, load_tokenizer
from langwright.base.errors import UserError
from langwright.base.gguf import KINDS, read_gguf
from langwright.models.families import FAMILIES
from langwright.models.families.llama import FULL, SLIDING
from langwright.models.folder import OpenedFolder, new_model
from langwright.models.gguf.writing import write_gguf
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.text.gguf import tokenizer_fields
from langwright.text.special_tokens import BERT
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import raw_bytes
from langwright.text.vocabularies import wordpiece_backend
from llama_cpp import LlamaCpp
from oracles import CASES, LLAMA3, oracle, perturb, random_ids

from ..refusals import refused

BYTES = raw_bytes()
SIZE = BYTES.vocab_size + 5
WRITTEN = [
    "gpt2", "llama", "llama-linear", "llama-llama3", "mistral", "qwen2", "qwen3", "gpt_neox", "bloom", "mpt", "phi",
    "mixtral", "mixtral-one", "gemma",
]  # fmt: skip
REFUSED = {
    "gpt1": "openai-gpt", "gpt_neo": "gpt_neo", "gptj": "gptj", "nanochat": "nanochat", "llama-biases": "hidden_act",
    "gpt_neox-serial": "attention_bias", "mpt-clipped": "softmax_scale", "phi-norms": "qk_layernorm",
    "gemma-biases": "attention_bias", "gemma2": "query_pre_attn_scalar", "gemma2-uncapped": "softcapping",
}  # fmt: skip


def write(path: Path, model: Model, kind: Any = "f32", **fields: Any) -> Path:
    """A file of a model."""
    path.parent.mkdir(exist_ok=True)
    write_gguf(path, model, dict(model.named_parameters()), fields, kind)
    return path


@torch.no_grad()
def logits(model: Model, ids: Tensor) -> Tensor:
    found: Tensor = model(ids)
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_read_with_the_same_logits(name: str, tmp_path: Path) -> None:
    oracle(CASES[name]).save_pretrained(tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    back = load_model(write(tmp_path / "model.gguf", model))
    assert back.family == ("llama" if name == "mistral" else model.family)
    ids = random_ids(2, min(20, back.context))  # windows of layers that llama.cpp does not know are the context
    assert torch.equal(logits(back, ids), logits(model, ids))


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(name: str, tmp_path: Path) -> None:
    oracle(CASES[name]).save_pretrained(tmp_path / "folder")
    with refused(REFUSED[name]):
        write(tmp_path / "model.gguf", load_model(tmp_path / "folder"))
    assert not (tmp_path / "model.gguf").exists()


TINY = {
    "llama": {"num_key_value_heads": 1, "attention_bias": True, "rope_parameters": LLAMA3},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 64, "layer_types": (SLIDING, FULL),
               "attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0},
    "gpt_neox": {"use_parallel_residual": False},
    "mpt": {"clip_qkv": 1.5},
}  # fmt: skip
"""Features of llama.cpp's families beyond those of every model."""


def tiny(family: str, width: int = 64, **changes: Any) -> Model:
    """A model over bytes whose weights are far from any special value."""
    config = replace(by_depth(family, 2, SIZE, 64, 0.0, width=width), **changes)
    model = new_model(family, config, seed=1).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.3 if parameter.shape[0] == SIZE else 0.06
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return model


def compare(path: Path, kind: str, nearness: float) -> None:
    """llama.cpp writes what we write from the same file, as surely."""
    model, tokenizer = load_model(path, dtype=torch.float32), load_tokenizer(path)
    prompt = [*tokenizer.prefix, *tokenizer.encode("a text: É")]
    found = LlamaCpp(path).write(prompt, 12)
    sure = logits(model, torch.tensor([prompt + found.ids])).log_softmax(-1)[0, len(prompt) - 1 : -1]
    assert sure.argmax(-1).tolist() == found.ids
    assert len(found.likeliest) == len(found.ids)
    for position, tops in enumerate(found.likeliest):
        assert [float(sure[position, id]) for id in tops] == pytest.approx(list(tops.values()), abs=nearness), kind


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.gguf and row.is_decoder])
def test_llama_cpp_writes_the_same_text(family: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", tiny(family, **TINY.get(family, {})), "f16", **tokenizer_fields(BYTES, SIZE))
    compare(path, family, 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_every_kind_of_numbers_as_we_do(kind: str, tmp_path: Path) -> None:
    path = write(
        tmp_path / "model.gguf", tiny("gpt_neox", 256, **TINY["gpt_neox"]), kind, **tokenizer_fields(BYTES, SIZE)
    )
    held = {stored.kind.name for stored in read_gguf(path).tensors.values()}
    assert held == {"f32", kind, *(["q6_k"] if kind == "q4_k" else [])}
    # llama.cpp rounds what it multiplies with weights to bfloat16 or, where these are quantised, to 8 bits.
    compare(path, kind, {"f32": 0.02, "f16": 0.02, "bf16": 0.1}.get(kind, 0.5))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with everything in it: experts, blocks of 32, a tokenizer."""
    return write(tmp_path_factory.mktemp("whole") / "m.gguf", tiny("mixtral"), "q8_0", **tokenizer_fields(BYTES, SIZE))


NUMBERS = st.sampled_from([0, 1, 7, 31, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])


@settings(max_examples=100)
@given(data=st.data())
def test_a_changed_file_is_read_or_refused_in_one_line(data: st.DataObject, whole: Path, tmp_path_factory: Any) -> None:
    """Bytes, counts and lengths of the header changed, or the end cut off: no other error, and no large memory."""
    changed = bytearray(whole.read_bytes())
    header = changed.rindex(b".weight") + 64
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 1500) | st.integers(1500, header) | st.integers(header - 3000, header))
        new = data.draw(st.binary(min_size=1, max_size=4) | NUMBERS.map(lambda n: struct.pack("<Q", n)))
        changed[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(changed[: data.draw(st.just(len(changed)) | st.integers(0, len(changed)))])
    tracemalloc.start()
    try:
        model = OpenedFolder(path).model(dtype=torch.float32)
        load_tokenizer(path).encode("a text")
        logits(model, random_ids(1, 4))
    except UserError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


def text(value: str) -> bytes:
    """A text as it lies in a file."""
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (b"GGUF\3\0\0\0", b"GGUF\1\0\0\0", ["version 1"]),
        (text("llama.block_count"), text("llama.expert_coun"), ["block_count"]),
        (text("general.file_type"), text("general.alignment"), ["general.alignment"]),
        (text("general.file_type"), text("llama.logit_scale"), ["llama.logit_scale"]),
        (text("blk.0.attn_q.weight"), text("blk.0.attn_k.weight"), ["blk.0.attn_k.weight"]),
        (text("blk.0.attn_q.weight"), text("blk.0.attn_Q.weight"), ["blk.0.attn_Q.weight"]),
        (text("tokenizer.ggml.pre") + b"\x08\0\0\0" + text("gpt-2"),
         text("tokenizer.ggml.pre") + b"\x08\0\0\0" + text("gpt-9"), ["tokenizer.ggml.pre", "gpt-9"]),
        (text("general.architecture") + b"\x08\0\0\0" + text("llama"),
         text("general.architecture") + b"\x08\0\0\0" + text("lluma"), ["general.architecture", "lluma"]),
        (text("llama.attention.head_count") + b"\4\0\0\0\1", text("llama.attention.head_count") + b"\4\0\0\0\3",
         ["blk.0.attn_q.weight"]),
    ],
    ids=["version", "missing", "alignment", "unread", "twice", "unknown", "pre", "architecture", "shape"],
)  # fmt: skip
def test_what_is_wrong_is_named(old: bytes, new: bytes, names: list[str], whole: Path, tmp_path: Path) -> None:
    content, path = whole.read_bytes(), tmp_path / "m.gguf"
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with refused(path, *names):
        OpenedFolder(path).model()
        load_tokenizer(path)


def test_a_head_that_repeats_the_token_table_in_other_numbers(tmp_path: Path) -> None:
    """The finer one is both, where they are the same but for rounding; another table is refused."""
    gguf: Any = pytest.importorskip("gguf")
    model = tiny("gpt2")
    table = model.body.embed.tokens.detach()
    for name, head in (("same", table), ("other", table.flip(0))):
        path, more = write(tmp_path / name / "m.gguf", model, "q8_0"), tmp_path / f"{name}.gguf"
        file, writer = gguf.GGUFReader(path), gguf.GGUFWriter(more, "gpt2")
        for field in file.fields.values():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                kinds = field.types
                writer.add_key_value(field.name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
        for tensor in file.tensors:
            if tensor.name != "output.weight":
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.add_tensor("output.weight", head.numpy())
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        if name == "same":
            opened: Any = load_model(more)
            assert torch.equal(opened.body.embed.tokens, table)
        else:
            with refused(more, "output.weight"):
                load_model(more)


@pytest.mark.parametrize("family", ["llama", "qwen2", "bloom"])
def test_transformers_reads_the_same_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    write(tmp_path / "m.gguf", model, "f32", **tokenizer_fields(BYTES, SIZE))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert float((theirs(ids).logits - model(ids)).abs().max()) < 1e-4


def test_bert_gives_the_same_hidden_states(tmp_path: Path) -> None:
    words = [*BERT.config().values(), "un", "##able", "a", "the", "cat", "##s"]
    tokenizer = Tokenizer(wordpiece_backend({word: i for i, word in enumerate(words)}, {}), BERT)
    model = new_model("bert", by_depth("bert", 2, len(words), 64, 0.0, width=64)).eval()
    perturb(model)
    path = write(tmp_path / "m.gguf", model, "f16", **tokenizer_fields(tokenizer, len(words)))
    back, ids = load_model(path, dtype=torch.float32), torch.tensor([tokenizer.frame("unable the cats")[0]])
    theirs = torch.tensor(LlamaCpp(path, embedding=True).hidden("unable the cats"))
    assert float((logits(back, ids)[0] - theirs).abs().max()) < 0.03
    assert float((logits(back, ids) - logits(model, ids)).abs().max()) < 0.03
