"""What a folder says of the bounds of a text, held against `transformers`: what begins it, and what ends it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import processors

import langwright
from langwright.base.files import write_json
from langwright.corpora.document import Document
from langwright.data.texts import tokenise
from langwright.evaluation.likeliest import next_tokens
from langwright.inference.generate import complete
from langwright.inference.prompts import prompt_ids
from langwright.inference.sampling import Sampling, Search
from langwright.text.opening import load_tokenizer
from langwright.text.training import raw_bytes, train_bpe

from ..refusals import refused
from .test_tokenizer import gpt2_like_folder, sentencepiece_like

transformers.logging.set_verbosity_error()
TEXT = "One cat ate a cat."
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GPT2 = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
BLOOM = {"tokenizer_class": "BloomTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
SMOL = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
QWEN = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}


def byte_level(processor: Callable[[tokenizers.Tokenizer], Any]) -> tokenizers.Tokenizer:
    backend = train_bpe(["the cat ate a cat\n" * 3], 270)._backend
    backend.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    backend.post_processor = processor(backend)
    return backend


def nothing(backend: tokenizers.Tokenizer) -> None:
    return None


def offsets(backend: tokenizers.Tokenizer) -> Any:
    return processors.ByteLevel(trim_offsets=False)


def bos(backend: tokenizers.Tokenizer) -> Any:
    id = backend.token_to_id("<s>")
    return processors.TemplateProcessing(single="<s>:0 $A:0", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", id)])


def both(backend: tokenizers.Tokenizer) -> Any:
    return processors.Sequence([offsets(backend), bos(backend)])


def llama(folder: Path) -> None:
    backend = sentencepiece_like()
    backend.post_processor = bos(backend)
    backend.save(str(folder / "tokenizer.json"))


def gpt2(folder: Path) -> None:
    gpt2_like_folder(folder)


def written(processor: Callable[[tokenizers.Tokenizer], Any]) -> Callable[[Path], None]:
    return lambda folder: byte_level(processor).save(str(folder / "tokenizer.json"))


def ours(folder: Path) -> None:
    train_bpe(["the cat ate a cat\n" * 3], 270).save(folder)


SHAPES: dict[str, tuple[Callable[[Path], None], dict[str, Any] | None, int]] = {
    "llama2": (llama, {**LLAMA, "add_bos_token": True}, 1),
    "llama3": (written(both), {**BLOOM, "tokenizer_class": "PreTrainedTokenizerFast"}, 1),
    "gpt2": (gpt2, None, 0),
    "gpt2-with-bos": (gpt2, {**GPT2, "add_bos_token": True}, 1),
    "gpt2-without": (gpt2, {**GPT2, "add_bos_token": False}, 0),
    "bloom": (written(offsets), {**BLOOM, "add_prefix_space": False}, 0),
    "bloom-flag": (written(offsets), {**BLOOM, "add_bos_token": True}, 0),
    "smollm2": (written(nothing), SMOL, 0),
    "smollm2-flag": (written(nothing), {**SMOL, "add_bos_token": True}, 0),
    "qwen2": (written(offsets), QWEN, 0),
    "ours": (ours, None, 1),
}
"""How the tokenizer of each is written, its tokenizer_config.json, and how many tokens stand before a text."""


@pytest.fixture(scope="module", params=SHAPES)
def shaped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, int]:
    """The folder of a tiny model with the tokenizer of a shape, the model of `transformers`, and the prefix."""
    write, config, prefix = SHAPES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write(folder)
    if config is not None:
        write_json(folder / "tokenizer_config.json", config)
    torch.manual_seed(0)
    made = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=load_tokenizer(folder).vocab_size, n_embd=16, n_layer=1, n_head=2, n_positions=64,
            initializer_range=0.5, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    made.save_pretrained(folder)
    return folder, made.eval(), prefix


def test_a_text_begins_as_for_transformers(shaped: tuple[Path, Any, int], tmp_path: Path) -> None:
    folder, _, prefix = shaped
    tokenizer, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs(TEXT)["input_ids"]
    assert prompt_ids(tokenizer, TEXT) == expected == [*tokenizer.prefix, *tokenizer.encode(TEXT)]
    assert len(tokenizer.prefix) == prefix
    document = tokenise([Document(TEXT, "here")], tokenizer, tmp_path / "a.tokens").ids.tolist()
    parted = [tokenizer.bos_id] if tokenizer.bos_id == tokenizer.eos_id and not prefix else []
    assert document == [*parted, *expected, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,))]

    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.prefix, again.fingerprint()) == (tokenizer.prefix, tokenizer.fingerprint())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"] == expected


@pytest.mark.parametrize("ends", [1, 3])
def test_a_text_ends_as_for_transformers(shaped: tuple[Path, Any, int], ends: int, tmp_path: Path) -> None:
    folder, theirs, _ = shaped
    ids = transformers.AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 20, "pad_token_id": 0}
    whole = theirs.generate(ids, eos_token_id=None, **settings)[0, ids.shape[1] :].tolist()
    chosen = [*dict.fromkeys(whole)][-ends:]
    model, tokenizer = langwright.load_model(folder), load_tokenizer(folder)
    assert [next_tokens(model, tokenizer, TEXT, 1)[0][0]] == whole[:1]
    langwright.save_model(model, tokenizer, tmp_path)
    for name in ("config.json", "generation_config.json"):  # the second goes before the first
        content = json.loads((tmp_path / name).read_text())
        write_json(tmp_path / name, content | {"eos_token_id": chosen if ends > 1 else chosen[0]})
        if name == "config.json":
            (tmp_path / "generation_config.json").unlink()
        told = load_tokenizer(tmp_path)
        assert told.ends == tuple(chosen)
        for beams in (1, 3):
            expected = theirs.generate(ids, eos_token_id=chosen, num_beams=beams, **settings)[
                0, ids.shape[1] :
            ].tolist()
            (found,) = complete(model, told, [TEXT], Sampling(temperature=0), 20, search=Search(beams=beams))
            assert found.ids == expected[: len(found.ids)]
            assert len(found.ids) == next((i for i, id in enumerate(expected, 1) if id in chosen), 20)
        (tmp_path / "generation_config.json").write_text("{}")
    langwright.save_model(model, replaced := told, tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").ends == replaced.ends


def test_a_sentencepiece_model_has_bos_unless_told_otherwise(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(data_folder / "tokenizers/llama2/tokenizer.model")
    for config, prefix in (({}, (1,)), ({**LLAMA, "add_bos_token": True}, (1,)), ({"add_bos_token": False}, ())):
        write_json(tmp_path / "tokenizer_config.json", config)
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.prefix == prefix
        tokenizer.save(tmp_path / "saved")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
        assert theirs(TEXT)["input_ids"] == [*prefix, *tokenizer.encode(TEXT)]


def test_folders_of_before_mean_what_they_meant(tmp_path: Path) -> None:
    """They have no post-processor and no add_bos_token, and bos began every text."""
    backend = byte_level(nothing)
    for bos, record, prefix in (
        ("<|bos|>", False, (0,)),
        ("<s>", True, (backend.token_to_id("<s>"),)),
        ("<s>", False, ()),
    ):
        backend.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "langwright.json").unlink(missing_ok=True)
        if record:
            (tmp_path / "langwright.json").write_text("{}")
        write_json(tmp_path / "tokenizer_config.json", {"bos_token": bos, "eos_token": "</s>"})
        assert load_tokenizer(tmp_path).prefix == prefix


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("tokenizer_config.json", {"add_bos_token": "false"}, "add_bos_token"),
        ("generation_config.json", {"eos_token_id": "2"}, "eos_token_id"),
        ("config.json", {"eos_token_id": [2, True]}, "eos_token_id"),
        ("generation_config.json", [2], "object"),
    ],
)
def test_facts_of_the_wrong_type_are_refused(file: str, content: Any, field: str, tmp_path: Path) -> None:
    raw_bytes().save(tmp_path)
    write_json(tmp_path / file, content)
    with refused(file, field):
        load_tokenizer(tmp_path)


def test_without_a_folder_eos_ends_a_text() -> None:
    tokenizer = raw_bytes()
    assert tokenizer.ends == (tokenizer.eos_id,)
    silent = tokenizer.extended((), replace(tokenizer.special_tokens, eos=None), None)
    assert silent.ends == ()


def test_the_tokenizer_of_an_adapter_ends_texts_as_its_model_does(tmp_path: Path) -> None:
    for folder in (base := tmp_path / "base", adapter := tmp_path / "adapter"):
        folder.mkdir()
        raw_bytes().save(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    (base / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert load_tokenizer(adapter, base=base).ends == (1, 2)
    (adapter / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert load_tokenizer(adapter, base=base).ends == (3,)
