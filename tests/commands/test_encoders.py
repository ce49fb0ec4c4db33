"""The verbs on an encoder's folder: what applies works, what does not is said in one line."""

import json
from pathlib import Path

import pytest
import torch

from langwright.cli import main
from langwright.models.folder import load_model, new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.tokenizer import load_tokenizer
from oracles import perturb

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


def test_next_fills_the_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folder(tmp_path / "bert"))
    assert main(["next", model, "The capital of France is [MASK].", "--top", "13", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(row["id"] for row in found) == list(range(13))
    ids = torch.tensor([[2, 5, 6, 7, 8, 9, 4, 12, 3]])
    with torch.no_grad():
        expected = load_model(Path(model))(ids)[0, 6].softmax(-1)
    assert [row["probability"] for row in found] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
    assert found[0]["id"] == int(expected.argmax())
    assert main(["next", model, "The capital of [MASK] is Rome.", "--top", "13", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) != found
    assert main(["next", model, "The capital of France is [MASK]."]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_show_draws_what_an_encoder_attends_to(tmp_path: Path) -> None:
    model = str(folder(tmp_path / "bert", "embedding"))
    assert main(["show", model, "--attention", "the capital", "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert all(token in page for token in ("[CLS]", "capital", "[SEP]"))


@pytest.mark.parametrize(
    ("verb", "head", "message"),
    [
        (["next", "MODEL", "the capital"], "masked", "must hold [MASK] once"),
        (["next", "MODEL", "[MASK] [MASK]"], "masked", "it holds it 2 times"),
        (["next", "MODEL", "the [MASK]" + " the" * 20], "masked", "does not fit the model's context of 16 tokens"),
        (["next", "MODEL", "[MASK]"], "hidden", 'head "hidden" neither continues a text nor fills a mask'),
        (["next", "MODEL", "[MASK]"], "sequence", 'head "sequence" neither continues'),
        (["show", "MODEL", "--attention", "the", "--target", "a"], "masked", "--target: a bert model reads one text"),
        (["generate", "MODEL", "--prompt", "the"], "masked", 'head "masked" does not continue texts'),
        (["generate", "MODEL", "--prompt", "the"], "embedding", "a bert model with the head"),
        (["evaluate", "MODEL", "--text", "TEXT"], "masked", 'head "masked" does not continue texts'),
        (["finetune", "MODEL", "TEXT", "OUT", "--steps", "1"], "masked", 'head "masked" does not continue texts'),
        (["pretrain", "TEXT", "OUT", "--family", "bert", "--split", "0.9"], "masked", "which is what pretrain teaches"),
    ],
)
def test_what_does_not_apply_is_one_line(
    verb: list[str], head: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the capital of france is paris.\n" * 200)
    names = {"MODEL": str(folder(tmp_path / "bert", head)), "TEXT": str(text), "OUT": str(tmp_path / "out")}
    capsys.readouterr()
    assert main([names.get(word, word) for word in verb]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
