"""What answers are worth: rules beside hand-worked tables, classifiers beside `predict`, and what is refused."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langwright.alignment.reward_model import RewardModel
from langwright.alignment.rewards import Answered, open_reward, reward_contents
from langwright.cli import main
from langwright.data.preferences import AnswerExample, Continuing, Conversing
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.chat_template import set_up_chat
from langwright.text.training import raw_bytes
from oracles import perturb
from refusals import Prints, refused

TOKENIZER = raw_bytes()
BODY = 'def double(x):\n    """Twice x."""\n'


def value(spec: str, text: str, prompt: str = "", **row: Any) -> float:
    (found,) = open_reward(spec, TOKENIZER)([Answered(prompt, text, row, "rows.jsonl, row 7")])
    return found


@pytest.mark.parametrize(
    ("spec", "prompt", "answer", "worth"),
    [
        ("parses", "", "x = 1\nif x:\n    print(x)", 1),
        ("parses", "", "x = = 1", 0),
        ("parses", "", "", 0),
        ("parses", "", "# only words", 0),
        ("parses", "", "(" * 9999, 0),
        ("parses", "", "a\0b", 0),
        ("parses", BODY, "    return 2 * x\n", 1),  # a body, in its indentation
        ("parses", BODY + "    ", "y = x\n    return y + x", 1),  # behind its prompt only
        ("parses", BODY, "    return 2 *\n", 0),
        ("parses", BODY, "\n    # nothing is added\n", 0),
        ("parses", "Write it.", "Gladly:\n```python\nreturn 1\n```\nThat is all.", 1),
        ("parses", "Write it.", "Gladly:\n```python\nreturn +\n```\n", 0),
        ("regex:^b+", "", "abb", 0),
        ("regex:b+$", "", "abb", 1),
        ("format:json", "", ' {"a": [1, 2]}', 1),
        ("format:json", "", "{'a': 1}", 0),
        ("format:json", "", "[" * 99999, 0),
        ("format:json", "", "[NaN]", 0),
        ("format:<think>...</think>...", "", "<think>one\ntwo</think>3", 1),
        ("format:<think>...</think>...", "", "<think></think>3", 0),
        ("format:<think>...</think>...", "", "<think>a</think>b</think>3", 0),
        ("length", "not counted", "12345", 5),
        ("length:4-8", "", "1234", 0),
        ("length:4-8", "", "12345", -0.25),
        ("length:4-8", "", "1234567890", -1),
    ],
)
def test_rules(spec: str, prompt: str, answer: str, worth: float) -> None:
    assert value(spec, answer, prompt) == worth


@pytest.mark.parametrize(
    ("answer", "truth", "worth"),
    [
        ("3 and 4 make 7.", "7", 1),
        ("3 and 4 make 7, or 8.", "7", 0),
        ("The price is $1,250.50", "1250.5", 1),
        ("5-3 = 2", "2", 1),
        ("so x = -2", "-2", 1),
        ("10-3", "3", 1),  # a minus behind a number subtracts
        ("#### 12 of 40", "40", 1),
        ("first \\boxed{8}, no: \\boxed{9} by 3", "9", 1),
        ("<answer> Paris. </answer> it is", "paris", 1),
        ("Paris it is", "Paris", 0),
        ("none", "7", 0),
        ("9" * 5000, "7", 0),
        ("It is 72", "48/2 = 24\n#### 72", 1),  # the answers of GSM8K
        ("so it is 0.5", "1/2", 1),
        ("1/2", "0.5", 1),
        ("1/0", "1", 0),
        ("1000 in all", "1e3", 1),
        ("3/4", "4", 0),
        ("5 - 4 = 1.\n####\n7\nas 1 is not it", "7", 1),
    ],
)
def test_the_final_answer(answer: str, truth: str, worth: float) -> None:
    assert value("answer", answer, answer=truth) == worth


def test_a_sum_weighs_its_terms_and_leaves_patterns_whole() -> None:
    for spec in (
        "0.5*length-2*regex:a++.1*parses",
        "0.5 * length - 2 * regex:a+ + .1 * parses",
        "+.5*length-1.9*parses",
    ):
        assert value(spec, "aa") == pytest.approx(1 - 2 + 0.1)
    assert value("regex:^a+2*b$", "aa222b") == 1  # no weight before it, no sum


def test_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(
        "import math\n"
        "def words(prompt: str, answer: str) -> float:\n    return len(answer.split()) - len(prompt)\n"
        "def hits(prompt, answer, row):\n    return answer == row['gold']\n"
        "def lost(prompt, answer):\n    return math.nan\n"
        "def text(prompt, answer):\n    return '1'\n"
        "def fails(prompt, answer):\n    return 1 / 0\n"
        "def wide(a, b, c, d):\n    return 0\n"
        "def lone(answer):\n    return 0\n"
        "def leaves(prompt, answer):\n    raise SystemExit(0)\n"
        "def scaled(prompt, answer, scale=0.5, **more):\n    return scale * len(answer)\n"
    )
    (tmp_path / "own_script.py").write_text("import sys\nsys.exit()\n")
    monkeypatch.chdir(tmp_path)
    assert value("own_rewards:words", "one two", "?") == 1
    assert value("2*own_rewards:hits+1*length", "yes", gold="yes") == 5
    assert value("own_rewards:scaled", "four") == 2
    for name in ("lost", "text", "fails", "leaves"):
        with refused(f"own_rewards:{name}", "rows.jsonl", "row 7"):
            value(f"0.5*own_rewards:{name}+1*length", "a")
    for spec in ("own_rewards:wide", "own_rewards:lone", "own_rewards:missing", "own_script:reward", "no_such:reward"):
        with refused(f"--reward {spec}"):
            open_reward(spec, TOKENIZER)


@pytest.mark.parametrize(
    "spec",
    ["", "parse", "parses:x", "tests:x", "tests:0", "regex:(", "format:xml", "length:8-4", "length:x", "no/folder",
     "0.5*parse"],
)  # fmt: skip
def test_what_is_no_reward_is_refused(spec: str) -> None:
    with refused("--reward", spec.removeprefix("0.5*")):
        open_reward(spec, TOKENIZER)


def test_no_answer_holds_up_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that sleeps and a pattern that goes back without end are worth 0, within their time."""
    began = time.monotonic()
    sleeps = Answered("", "import time\ntime.sleep(60)", {"tests": "assert True"})
    assert open_reward("tests:.3", TOKENIZER)([sleeps]) == [0]
    assert open_reward("regex:^(a+)+$", TOKENIZER)([Answered("", "a" * 64 + "b"), Answered("", "aa")]) == [0, 1]
    assert "regex:^(a+)+$" in capsys.readouterr().err
    assert time.monotonic() - began < 20


def test_code_that_passes_its_tests() -> None:
    reward = open_reward("tests", TOKENIZER)
    head, doctests = BODY, ">>> double(3)\n6\n>>> double('a')\n'aa'\n"
    asked = [
        Answered(head, "    return 2 * x", {"tests": doctests}),
        Answered(head, "    return x + 3", {"tests": doctests}),
        Answered(head, "    return 2 *", {"tests": doctests}),
        Answered("Double it.", "```python\ndef double(x): return x + x\n```", {"tests": ["assert double(2) == 4"]}),
        Answered("Double it.", "import os; os._exit(0)", {"tests": "assert double(2) == 4"}),
        Answered("Double it.", "raise SystemExit", {"tests": "assert double(2) == 4"}),
    ]
    assert reward(asked) == [1, 0, 0, 1, 0, 0]
    with refused('"tests"', "row 7"):
        value("tests", "x = 1")


def test_a_row_without_its_answer_is_refused() -> None:
    with refused('"answer"', "row 7"):
        value("answer", "4")


@pytest.mark.parametrize("labels", [("bad", "good"), ("joy", "anger", "fear")])
def test_a_classifier_says_what_predict_says(labels: tuple[str, ...], tmp_path: Path, prints: Prints) -> None:
    model = new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0), head="sequence", labels=labels)
    perturb(model)
    save_model(model, TOKENIZER, tmp_path / "model")
    texts = [("I like", " it"), ("Quite", ""), ("A film", " that is far longer than what it reads of any")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": "".join(text)}) + "\n" for text in texts))
    told = [json.loads(row) for row in prints("predict", tmp_path / "model", tmp_path / "rows.jsonl").splitlines()]
    folder, rows = str(tmp_path / "model"), [Answered(*text) for text in texts]
    for label in labels:
        chances = [row["probabilities"][label] for row in told]
        odds = open_reward(f"{folder}:{label}", TOKENIZER)(rows)
        np.testing.assert_allclose(odds, [math.log(p / (1 - p)) for p in chances], atol=1e-4)
        np.testing.assert_allclose(open_reward(f"{folder}:{label}:probability", TOKENIZER)(rows), chances, atol=1e-6)
    if len(labels) == 2:
        assert open_reward(folder, TOKENIZER)(rows) == open_reward(f"{folder}:good", TOKENIZER)(rows)
    for spec in (f"{folder}:other", f"{folder}:{labels[0]}:odds", *([folder] if len(labels) > 2 else [])):
        with refused(f"--reward {spec}", labels[0]):
            open_reward(spec, TOKENIZER)


def test_a_classifier_with_another_tokenizer_reads_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0), head="sequence", labels=["a", "b"])
    save_model(model, TOKENIZER, tmp_path / "model")
    other = TOKENIZER.extended(["<|more|>"], TOKENIZER.special_tokens)
    row = [Answered("one", " two")]
    assert open_reward(str(tmp_path / "model"), other)(row) == open_reward(str(tmp_path / "model"), TOKENIZER)(row)
    assert "tokenizer" in capsys.readouterr().err
    language = new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0))
    save_model(language, TOKENIZER, tmp_path / "language")
    with refused("--reward", tmp_path / "language", "language"):
        open_reward(str(tmp_path / "language"), TOKENIZER)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("adapter", [False, True])
def test_a_reward_model_says_what_predict_says(adapter: bool, tmp_path: Path, prints: Prints) -> None:
    save_model(new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0)), TOKENIZER, tmp_path / "base")
    pairs = [
        {"prompt": f"{n} is", "chosen": " good" * (n % 3 + 1), "rejected": " bad" * (n % 2 + 1)} for n in range(20)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    prints("align", tmp_path / "base", tmp_path / "pairs.jsonl", tmp_path / "reward", "--method", "reward",
           "--steps", "2 steps", "--learning-rate", "0.01", *["--adapter", "lora"] * adapter)  # fmt: skip
    opened = [tmp_path / "base", "--adapter", tmp_path / "reward"] if adapter else [tmp_path / "reward"]
    asked = [Answered("1 is", " good"), Answered("2 is", " so so")]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": one.prompt, "completion": one.answer}) + "\n" for one in asked)
    )
    told = [
        json.loads(row) for row in prints("predict", *opened[:1], tmp_path / "rows.jsonl", *opened[1:]).splitlines()
    ]
    folder = str(tmp_path / "reward")
    np.testing.assert_allclose(open_reward(folder, TOKENIZER)(asked), [row["reward"] for row in told], atol=1e-4)
    for spec, tokenizer in ((folder, TOKENIZER.extended(["<|more|>"], TOKENIZER.special_tokens)),
                            (f"{folder}:good", TOKENIZER)):  # fmt: skip
        with refused(folder):
            open_reward(spec, tokenizer)
    before = reward_contents(f"2*{folder}")
    assert before not in (reward_contents("parses"), reward_contents(f"2*{folder}+1*{tmp_path / 'base'}"))
    (weights,) = (tmp_path / "reward").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert reward_contents(f"2*{folder}") != before


def test_a_reward_model_reads_no_end_that_was_not_written_and_tells_what_it_cuts(
    tmp_path: Path, prints: Prints, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0)), TOKENIZER, tmp_path / "base")
    rows, folder = tmp_path / "rows.jsonl", str(tmp_path / "reward")
    pairs = [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad"} for n in range(20)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    prints("align", tmp_path / "base", rows, folder, "--method", "reward", "--steps", "2")
    reward = RewardModel.open(Path(folder))
    ids = reward.form.encode("1 is", " good", 32).ids
    assert ids[-1] == TOKENIZER.eos_id
    (cut,) = open_reward(folder, TOKENIZER)([Answered("1 is", " good", ended=False)])
    assert cut == pytest.approx(reward.rewards_of([AnswerExample(ids[:-1], 4)])[0])
    assert cut != pytest.approx(reward.rewards([("1 is", " good")])[0], abs=1e-4)
    capsys.readouterr()
    for _ in range(2):
        open_reward(folder, TOKENIZER)([Answered("1 is", " good" * 8)])
    assert capsys.readouterr().err.count("warning") == 1
    with refused(folder, "rows.jsonl:1"):
        open_reward(folder, TOKENIZER)([Answered("1 is" * 10, " good", where="rows.jsonl:1")])
    rows.write_text(json.dumps({"prompt": "a", "chosen": " b", "rejected": " b"}) + "\n")
    equal = json.loads(prints("predict", folder, rows))["rewards"]
    assert equal[0] == equal[1]
    rows.write_text(json.dumps({"prompt": "a", "answer": "b" * 40}) + "\n")
    assert main(["predict", folder, str(rows)]) == 0
    assert "1 of 1 answers" in capsys.readouterr().err
    for row in ({"prompt": "a" * 40, "answer": "b"}, {"prompt": "a", "answer": ""}):
        rows.write_text(json.dumps(row) + "\n")
        assert main(["predict", folder, str(rows)]) == 2
        told = capsys.readouterr().err
        assert "rows.jsonl:1" in told
        assert "--skip" not in told  # predict has no such flag


@pytest.mark.parametrize("name", ["chatml", "zephyr", None])
def test_an_answer_that_was_cut_off_is_what_the_policy_wrote(name: str | None) -> None:
    form = Continuing(TOKENIZER) if name is None else Conversing(set_up_chat(TOKENIZER, name, may_grow=True, where="x"))
    written = [*form.prompt_ids("Who?"), *form.tokenizer.encode(" Me")]
    assert form.encode("Who?", " Me", 200, ended=False).ids.tolist() == written
    assert form.encode("Who?", " Me", 200).ids.tolist() == [*written, form.tokenizer.eos_id]
