"""A tokenizer.json whose folder names no special tokens: the authors' conventions hold."""

import json
from pathlib import Path

import pytest
import tokenizers

from langwright.text.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("tokens", "roles"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], {"cls_token": "[CLS]", "mask_token": "[MASK]"}),
        (["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a"], {"bos_token": "<s>", "eos_token": "</s>"}),
        (["<|endoftext|>", "a"], {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
        (["a", "b"], {}),
    ],
)
def test_roles_by_convention(tokens: list[str], roles: dict[str, str], tmp_path: Path) -> None:
    model = tokenizers.models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0])
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    found = load_tokenizer(tmp_path).special_tokens.config()
    assert roles.items() <= found.items()
    assert bool(found) == bool(roles)
