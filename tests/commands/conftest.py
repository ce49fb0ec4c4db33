"""A corpus and tiny models that several commands are tried on. Tests do not write into them."""

import random
from pathlib import Path

import pytest

from langwright.cli import main
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.training import raw_bytes


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences with some order in them, in a folder of text files."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    nouns, verbs = ["cat", "dog", "tuna", "human", "chicken"], ["ate", "saw", "chased"]
    for number in range(40):
        lines = [f"One {rng.choice(nouns)} {rng.choice(verbs)} a {rng.choice(nouns)}." for _ in range(30)]
        (folder / f"{number:02}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA folder of one layer and a context of 32, trained for a moment on `corpus`."""
    out = tmp_path_factory.mktemp("made") / "model"
    shape = ["--depth", "1", "--context", "32", "--batch-size", "4", "--vocabulary", "300", "--dtype", "float32"]
    every = ["--log-every", "1", "--save-every", "3", "--evaluate-every", "5", "--sample-every", "0"]
    assert main(["pretrain", str(corpus), str(out), "--steps", "40", *shape, *every]) == 0
    return out


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA folder of one layer, a context of 256 and raw bytes as tokens, as it is made."""
    folder, tokenizer = tmp_path_factory.mktemp("untrained") / "model", raw_bytes()
    save_model(new_model("llama", by_depth("llama", 1, tokenizer.vocab_size, 256, 0.0)), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one sentence again and again."""
    path = tmp_path_factory.mktemp("text") / "cats.txt"
    path.write_text("One cat ate a tuna, one cat ate a chicken, one weird cat ate a human.\n" * 60)
    return path
