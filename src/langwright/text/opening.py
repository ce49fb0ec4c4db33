"""The tokenizer in a folder, whoever wrote it: Langwright, `transformers`, or its authors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from langwright.base.errors import UserError
from langwright.base.files import read_json, read_object, read_text
from langwright.base.gguf import is_gguf, read_gguf
from langwright.base.hub import model_folder
from langwright.text.gguf import read_tokenizer
from langwright.text.sentencepiece import read_sentencepiece
from langwright.text.special_tokens import SpecialTokens, read_special_tokens, usual_special_tokens
from langwright.text.tokenizer import PLAIN_CONFIG, Tokenizer
from langwright.text.vocabularies import read_merges_and_vocabulary, read_wordpiece

_FILES = ("tokenizer.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")


def load_tokenizer(folder: Path | str, base: Path | str | None = None) -> Tokenizer:
    """The tokenizer in a folder: `tokenizer.json`, or the files of its authors.

    Those are `vocab.json` with `merges.txt` (GPT-1, GPT-2, RoBERTa), `vocab.txt` (BERT), and SentencePiece's
    `tokenizer.model` or `spiece.model`. The special tokens are those of `tokenizer_config.json`, else of
    `special_tokens_map.json`. Where neither names any, the authors' convention holds: GPT-2's `<|endoftext|>` both
    begins and ends a document, and there is no padding token; BERT has `[CLS]`, `[SEP]`, `[MASK]`, `[PAD]` and
    `[UNK]`. A model of the Hub is written `hf:owner/name[@revision]`.

    What begins a text is the post-processor of `tokenizer.json`, as for `transformers`; in a folder without that file,
    bos where `add_bos_token` is true, or where a SentencePiece model has one and `add_bos_token` is absent. What ends a
    generated text are the `eos_token_id` of `generation_config.json`, else of `config.json`, else eos. A GGUF file says
    all of that itself.

    Args:
        folder: where the tokenizer is.
        base: the folder of the model that an adapter's tokenizer is for, which says what ends a text where `folder`
            does not.

    Raises:
        UserError: naming the file that is missing or broken.
    """
    folder = model_folder(folder, weights=False)
    if is_gguf(folder):
        return read_tokenizer(read_gguf(folder))
    config, special = _read_config(folder)
    begins = config.get("add_bos_token")
    if not isinstance(begins, bool | None):
        raise UserError(f'{folder / "tokenizer_config.json"}: "add_bos_token" must be true or false, not {begins!r}')
    found = [folder / name for name in _FILES if (folder / name).exists()]
    if not found:
        raise UserError(f"{folder}: no tokenizer here; needed is one of {', '.join(_FILES)}")
    path = found[0]
    if path.name == "tokenizer.json":
        layout = read_json(path, "the tokenizer")
        try:
            backend = tokenizers.Tokenizer.from_str(json.dumps(layout))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path}: not a tokenizer that the tokenizers library reads: {error}") from None
        usual = usual_special_tokens(backend.get_vocab())
        # Langwright wrote no post-processor before it wrote add_bos_token, and bos began every text.
        ours = special.bos == "<|bos|>" or (folder / "langwright.json").exists()
        begins = begins is not False and ours and special.bos != special.eos
    elif path.name == "merges.txt":
        backend, usual = read_merges_and_vocabulary(folder / "vocab.json", path)
    elif path.name == "vocab.txt":
        backend, usual = read_wordpiece(path, config)
    else:
        backend, usual = read_sentencepiece(path, config.get("extra_ids") or 0)
        begins = begins is not False
    ends = _read_ends([folder] if base is None else [folder, model_folder(base, weights=False)])
    special = usual if special == SpecialTokens() else special
    return Tokenizer(backend, special, {**config, "add_bos_token": begins}, str(folder), ends)


def _read_ends(folders: Sequence[Path]) -> list[int]:
    paths = [folder / name for folder in folders for name in ("generation_config.json", "config.json")]
    for path in (path for path in paths if path.exists()):
        ends = read_object(path, "the settings of the model").get("eos_token_id")
        if ends is not None:
            ends = ends if isinstance(ends, list) else [ends]
            if not all(type(id) is int for id in ends):
                raise UserError(f'{path}: "eos_token_id" must be a number or a list of numbers')
            return ends
    return []


def _read_config(folder: Path) -> tuple[Mapping[str, Any], SpecialTokens]:
    """What `tokenizer_config.json` says, and the special tokens in it or in `special_tokens_map.json`."""
    config, special = PLAIN_CONFIG, SpecialTokens()
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if path.exists() and special == SpecialTokens():
            content = read_object(path, "the tokenizer's configuration")
            special = read_special_tokens(content, str(path))
            config = content if path.name == "tokenizer_config.json" else config
    if (template := folder / "chat_template.jinja").exists():  # goes before one in tokenizer_config.json
        config = {**config, "chat_template": read_text(template, "the chat template")}
    return config, special
