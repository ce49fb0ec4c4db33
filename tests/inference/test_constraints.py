"""Texts held to a form: what a model without sense writes fits it, whatever the tokenizer; bad forms are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import transformers

from langwright import Engine, Request, load_model, load_tokenizer
from langwright.inference.constraints import Constraint, Constraints
from langwright.inference.request import Completion
from langwright.inference.sampling import Sampling, Search
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import characters, raw_bytes, train_bpe
from oracles import SOURCED, perturb, sourced_oracle
from refusals import Fails, Prints, refused

PERSON = Constraint(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 6},
                "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
            },
            "required": ["name", "tags"],
            "additionalProperties": False,
        }
    ),
)
DATE = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2]) (day|night)"
MOODS = ["good", "very good", 'a "bad" one', "größer"]
FORMS: dict[str, tuple[Constraint, Callable[[str], bool]]] = {
    "schema": (PERSON, lambda text: is_person(text)),
    "regex": (Constraint("regex", DATE), lambda text: regex.fullmatch(DATE, text) is not None),
    "choices": (Constraint("choices", json.dumps(MOODS)), MOODS.__contains__),
    "grammar": (
        Constraint("grammar", 'start: "(" start ")" | "x"'),
        lambda text: text.count("(") == text.count(")") and text.strip("()") == "x",
    ),
}
TEXT = ['{"name": "größer", \'tags\': [red] (blue) x 1920-12 day night very good a "bad" one} ' * 3]


def is_person(text: str) -> bool:
    """JSON of the schema without free white space."""
    value = json.loads(text)
    dense = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return (
        list(value) == ["name", "tags"]
        and len(value["name"]) <= 6
        and set(value["tags"]) <= {"red", "blue"}
        and len(value["tags"]) <= 2
        and dense == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
        and not regex.search(r"[:,\[{]\s|\s[:,\]}]", regex.sub(r'"(\\.|[^"\\])*"', '""', text))
    )


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": raw_bytes,
    "characters": lambda: characters(TEXT),
    "bpe": lambda: train_bpe(TEXT, 320),
}


def decoder(tokenizer: Tokenizer) -> Model:
    size = tokenizer.vocab_size
    model = new_model("gpt2", GPT2Config(vocab_size=size, n_positions=160, n_embd=16, n_layer=1, n_head=2)).eval()
    perturb(model)
    return model


def write(model: Model, tokenizer: Tokenizer, form: Constraint, **asked: Any) -> list[Completion]:
    engine = Engine(model, tokenizer, longest=160)
    return engine.finish([engine.add(Request("The", constraint=form, **{"max_new_tokens": 150, **asked}))])[0]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_drawn_fits(name: str, form: str) -> None:
    tokenizer = TOKENIZERS[name]()
    model, (constraint, fits) = decoder(tokenizer), FORMS[form]
    texts = write(model, tokenizer, constraint, n=6, sampling=Sampling(1.5, seed=1))
    ended = [text for text in texts if text.reason == "end"]
    assert len(ended) >= 4
    assert all(fits(text.text) for text in ended), [text.text for text in ended]
    assert {text.reason for text in texts} <= {"end", "length"}


def test_a_crowd_of_forms_changes_no_text() -> None:
    tokenizer = raw_bytes()
    model = decoder(tokenizer)
    requests = [
        Request("The", Sampling(seed=number), 60, constraint=form, logprobs=1)
        for number, form in enumerate([None, *(form for form, _ in FORMS.values())])
    ]
    engine = Engine(model, tokenizer, longest=160)
    together = engine.finish([engine.add(request) for request in requests])
    for request, found in zip(requests, together, strict=True):
        alone = Engine(model, tokenizer, cache="none")
        assert alone.finish([alone.add(request)])[0][0].ids == found[0].ids


def test_the_mask_is_what_partial_matches_allow() -> None:
    tokenizer = train_bpe(TEXT, 320)
    spelt = [tokenizer.token_bytes(id).decode("utf-8", "ignore") for id in range(tokenizer.vocab_size)]
    matcher, pattern, text = Constraints(tokenizer, begins=False).begin(FORMS["regex"][0]), regex.compile(DATE), ""
    for token in tokenizer.encode("1920-12 day"):
        theirs = [bool(piece) and pattern.fullmatch(text + piece, partial=True) is not None for piece in spelt]
        ours = matcher.allowed(tokenizer.vocab_size)
        assert not (ours & ~np.array(theirs)).any()
        assert ours[token]
        if text == "19":  # where nothing is forced, all that fits is allowed
            assert [spelt[id] for id in np.flatnonzero(ours)] == [
                p for p, fits in zip(spelt, theirs, strict=True) if fits
            ]
        complete = matcher.take(token)
        text += spelt[token]
        assert complete == (pattern.fullmatch(text) is not None)
    assert matcher.allowed(tokenizer.vocab_size)[list(tokenizer.ends)].all()


def test_texts_that_begin_with_a_blank_and_letters_that_no_token_has(tmp_path: Path) -> None:
    sourced_oracle(SOURCED["t5"]).save_pretrained(tmp_path)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [
        (p, -2.0) for p in "▁▁yes▁nonoyes▁maybe abcdefghijklmnopqrstuvwxyz"
    ]
    pieces = list(dict.fromkeys([*pieces, ("▁yes", -1.0), ("▁no", -1.0)]))[:53]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tmp_path)
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    engine = Engine(model, tokenizer, longest=40)
    asked = Request("yes", Sampling(2.0), 20, n=8, constraint=Constraint("choices", '["yes", "no"]'))
    texts = engine.finish([engine.add(asked)])[0]
    assert {text.text for text in texts} == {"yes", "no"}
    unspeakable = engine.finish([engine.add(Request("yes", constraint=Constraint("regex", "yes1")))])[0][0]
    assert (unspeakable.reason, unspeakable.text) == ("error", "yes")
    assert unspeakable.error


@pytest.mark.parametrize(
    ("form", "source"),
    [
        ("json_schema", "{"),
        ("json_schema", '{"type":"integer","minimum":2,"maximum":1}'),
        ("json_schema", '{"type":"object","dependentSchemas":{}}'),
        ("json_schema", '{"items":' * 200 + "{}" + "}" * 200),
        ("json_schema", "[" * 100_000),
        ("json_schema", json.dumps({"enum": [f"choice {i}" for i in range(20_000)]})),
        ("regex", "(ab"),
        ("regex", "a" * 300_000),
        ("choices", "[]"),
        ("choices", '["a", ""]'),
        ("grammar", "start: other"),
        ("grammar", "begin: 'a'"),
        ("grammar", "start: start"),
        ("json_schema", '{"type":"array","uniqueItems":true,"x-guidance":{"lenient":true}}'),
        ("regex", "\udcff"),
    ],
)
def test_forms_that_cannot_be_kept_are_refused(form: Any, source: str) -> None:
    tokenizer = raw_bytes()
    with refused(f"--{form.replace('_', '-')}"):
        Engine(decoder(tokenizer), tokenizer).add(Request("The", constraint=Constraint(form, source)))


def test_rules_that_name_each_other_do_not_end_the_process() -> None:
    rules = "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(3200)) + 'a3200: "x"\n'
    tokenizer = raw_bytes()
    assert write(decoder(tokenizer), tokenizer, Constraint("grammar", rules))[0].text == "x"


def test_a_text_at_its_limit_says_whether_its_form_is_complete() -> None:
    tokenizer = raw_bytes()
    model = decoder(tokenizer)
    reasons = {
        write(model, tokenizer, Constraint("choices", choices), max_new_tokens=1)[0].reason
        for choices in ('["a", "ab"]', '["abc", "abd"]')
    }
    assert reasons == {"end", "length"}


def test_forms_that_no_engine_keeps() -> None:
    form = Constraint("regex", "a")
    with refused("--regex", "--beams"):
        Request("The", search=Search(beams=2), constraint=form)
    with refused("--regex", "--stop"):
        Request("The", stop=["a"], constraint=form)
    with refused("--regex", "forced"):
        Request("The", forced=[3], constraint=form)
    with refused("tokenizer"):
        Engine(decoder(raw_bytes())).add(Request([1], constraint=form))


def test_from_the_command_line(tmp_path: Path, prints: Prints, fails: Fails) -> None:
    (tmp_path / "corpus.txt").write_text("The sun is warm today. " * 200)
    (tmp_path / "person.json").write_text(PERSON.source)
    model = tmp_path / "model"
    shape = ["--depth", "1", "--width", "64", "--context", "64", "--vocabulary", "300"]
    prints("pretrain", tmp_path / "corpus.txt", model, *shape, "--steps", "1")
    ask = ["generate", model, "--prompt", "The", "--max-new-tokens", "60", "--json"]
    found = json.loads(prints(*ask, "--json-schema", tmp_path / "person.json"))
    assert found["reason"] == "length" or is_person(found["text"])
    assert json.loads(prints(*ask, "--choices", "warm, cold"))["text"] in ("warm", "cold")
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"prompt": "The"}\n{"prompt": "A sun"}\n')
    prints("generate", model, "--prompts", rows, "--out", out, "--regex", "[ab]{3}")
    assert all(regex.fullmatch("[ab]{3}", json.loads(line)["text"]) for line in out.read_text().splitlines())
    fails(*ask, "--regex", "(", names=("--regex",))
    fails(*ask, "--json-schema", tmp_path / "corpus.txt", names=("--json-schema",))
    fails(*ask, "--grammar", tmp_path / "none.lark", names=("none.lark",))
    fails(*ask, "--regex", "a", "--choices", "b", names=("--regex", "--choices"))
