"""The verbs on an encoder's folder: what applies works, what does not is said in one line."""

import json
from pathlib import Path

import pytest
import torch

from langwright import load_model
from langwright.cli import main
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.opening import load_tokenizer
from oracles import perturb
from refusals import Fails, Prints

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "capital", "of", "france", "is", "paris", "rome", "."]


def folder(path: Path, head: str = "masked") -> Path:
    """A tiny BERT with a vocabulary of 13 words."""
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = load_tokenizer(path)
    labels = ["yes", "no"] if head == "sequence" else []
    model = new_model("bert", by_depth("bert", 1, len(WORDS), 16, 0.0), head=head, labels=labels)
    perturb(model)
    save_model(model, tokenizer, path)
    return path


def test_next_fills_the_mask(tmp_path: Path, prints: Prints) -> None:
    model = str(folder(tmp_path / "bert"))
    found = json.loads(prints("next", model, "The capital of France is [MASK].", "--top", "13", "--json"))
    assert sorted(row["id"] for row in found) == list(range(13))
    ids = torch.tensor([[2, 5, 6, 7, 8, 9, 4, 12, 3]])
    with torch.no_grad():
        expected = load_model(Path(model))(ids)[0, 6].softmax(-1)
    assert [row["probability"] for row in found] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
    assert found[0]["id"] == int(expected.argmax())
    assert json.loads(prints("next", model, "The capital of [MASK] is Rome.", "--top", "13", "--json")) != found
    assert len(prints("next", model, "The capital of France is [MASK].").splitlines()) == 10


def test_show_draws_what_an_encoder_attends_to(tmp_path: Path) -> None:
    model = str(folder(tmp_path / "bert", "embedding"))
    assert main(["show", model, "--attention", "the capital", "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert all(token in page for token in ("[CLS]", "capital", "[SEP]"))


@pytest.mark.parametrize(
    ("verb", "head", "named"),
    [
        (["next", "MODEL", "the capital"], "masked", "[MASK]"),
        (["next", "MODEL", "[MASK] [MASK]"], "masked", "[MASK]"),
        (["next", "MODEL", "the [MASK]" + " the" * 20], "masked", "16"),
        (["next", "MODEL", "[MASK]"], "hidden", '"hidden"'),
        (["next", "MODEL", "[MASK]"], "sequence", '"sequence"'),
        (["show", "MODEL", "--attention", "the", "--target", "a"], "masked", "--target"),
        (["generate", "MODEL", "--prompt", "the"], "masked", '"masked"'),
        (["generate", "MODEL", "--prompt", "the"], "embedding", "bert"),
        (["evaluate", "MODEL", "--text", "TEXT"], "hidden", '"hidden"'),
        (["finetune", "MODEL", "TEXT", "OUT", "--steps", "1"], "sequence", '"sequence"'),
        (["pretrain", "TEXT", "OUT", "--family", "bert", "--split", "0.9"], "masked", "bert"),
    ],
)
def test_what_does_not_apply_is_one_line(verb: list[str], head: str, named: str, tmp_path: Path, fails: Fails) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the capital of france is paris.\n" * 200)
    names = {"MODEL": str(folder(tmp_path / "bert", head)), "TEXT": str(text), "OUT": str(tmp_path / "out")}
    fails(*(names.get(word, word) for word in verb), names=named)
