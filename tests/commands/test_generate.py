"""langwright generate with a model that reads a source and writes a target, and its bad values."""

import json

import pytest

from langwright import load_model
from langwright.cli import main
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling, Search
from langwright.models.families.bart import BartConfig
from langwright.models.folder import new_model, save_model
from langwright.text.training import raw_bytes
from refusals import Fails

BYTES = raw_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bart")
    config = BartConfig(
        vocab_size=BYTES.vocab_size, max_position_embeddings=24, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=1, decoder_ffn_dim=16, decoder_attention_heads=2, d_model=16,
        init_std=0.5, decoder_start_token_id=1, forced_eos_token_id=1,
    )  # fmt: skip
    save_model(new_model("bart", config), BYTES, path)
    return str(path)


def test_the_text_goes_to_the_encoder(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = ["--temperature", "0", "--max-new-tokens", "9"]
    (expected,) = complete(load_model(folder), BYTES, ["a cat"], Sampling(temperature=0), 9)
    assert main(["generate", folder, "--prompt", "a cat", *greedy]) == 0
    assert capsys.readouterr().out == expected.text + "\n"  # the prompt is no part of it


def test_beams(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search(beams=3, length_penalty=2.0, no_repeat_ngram=2)
    (expected,) = complete(load_model(folder), BYTES, ["a cat"], Sampling(), 9, search=search)
    flags = "--beams 3 --length-penalty 2 --no-repeat-ngram 2 --max-new-tokens 9 --json"
    assert main(["generate", folder, "--prompt", "a cat", *flags.split()]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "prompt": "a cat", "text": expected.text, "tokens": expected.ids, "reason": expected.reason,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("--beams 0", "--beams 0"),
        ("--length-penalty 2", ("--length-penalty 2", "--beams")),
        ("--beams 2 --top-k 3", ("--top-k 3", "--beams")),
        ("--window 8", ("--window", "bart")),
        ("--prompts x.jsonl", ("--prompts", "--out")),
        ("--prompts x.jsonl --out x.txt", ("--out x.txt", ".jsonl")),
        ("--batch 0", "--batch 0"),
        ("--max-new-tokens 24", ("context", "24")),
    ],
)
def test_bad_values(folder: str, flags: str, names: str | tuple[str, ...], fails: Fails) -> None:
    fails("generate", folder, "--prompt", "a", *flags.split(), names=names)


def test_next_needs_a_decoder(folder: str, fails: Fails) -> None:
    fails("next", folder, "a", names="bart")
