"""Guesses change no text, greedy or drawn, with rules, forms and crowds; and where they are wrong they stop."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy import stats

from langwright import Engine, Request
from langwright.inference.constraints import Constraint
from langwright.inference.continuation import Continuation
from langwright.inference.sampling import Sampling, Search
from langwright.inference.speculation import DraftModel, PromptLookup, Speculation
from langwright.models.model import Model
from langwright.text.training import raw_bytes
from oracles import random_ids
from refusals import Fails, Prints, refused
from writers import GREEDY, SAMPLINGS, made, small

FAMILIES = ["mistral", "bloom", "gemma2", "t5", "bart"]
REPEATED = [random_ids(1, 6, seed=1)[0].tolist() * 3, random_ids(1, 9, seed=2)[0].tolist(), [5, 6, 7, 5, 6]]


class Told:
    """Guesses what the model will write, but for the fourth of every `wrong` tokens."""

    def __init__(self, written: dict[int, list[int]], wrong: int):
        self._written, self._wrong = written, wrong

    def guess(self, texts: Sequence[Continuation], most: int) -> list[list[int]]:
        whole = [[*text.ids[: text.prompt], *self._written[text.prompt]] for text in texts]
        ahead = [ids[len(text.ids) : len(text.ids) + most] for ids, text in zip(whole, texts, strict=True)]
        return [[(token + (i % self._wrong == 3)) % 53 for i, token in enumerate(ids)] for ids in ahead]


def asked() -> list[Request]:
    requests = [
        Request(prompt, sampling, 12, logprobs=2)
        for prompt in REPEATED
        for sampling in (GREEDY, SAMPLINGS[2], Sampling(0.3, seed=9))
    ]
    return [
        *requests,
        Request(REPEATED[0], GREEDY, 8, n=2, banned=[3]),
        Request(REPEATED[1], GREEDY, 6, search=Search(3)),
    ]


def answers(model: Model, speculation: Speculation | None, **options: int) -> list[list[list[int]]]:
    engine = Engine(model, speculation=speculation, **options)  # type: ignore[arg-type]
    room = engine.free_blocks
    found = engine.finish([engine.add(request) for request in asked()])
    assert engine.free_blocks == room
    return [[completion.ids for completion in completions] for completions in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_guesses_change_no_text(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    plain = answers(model, None)
    assert answers(model, PromptLookup(), batch=4, blocks=30, block_size=4) == plain
    assert answers(model, DraftModel(Engine(small(), batch=3)), batch=3) == plain
    written = {len(prompt): ids[0] for prompt, ids in zip(REPEATED, plain[:9:3], strict=True)}
    if not model.encoders:
        assert answers(model, Told(written, 5), batch=2) == plain


def test_good_guesses_save_passes_and_bad_ones_end() -> None:
    model = small(160)
    plain = Engine(model)
    (ids,) = (completions[0].ids for completions in plain.finish([plain.add(Request(REPEATED[1], GREEDY, 90))]))
    for told, least, most in ((ids, 0.9, 1.0), ([52 - token for token in ids], 0.0, 0.25)):
        engine = Engine(model, speculation=Told({9: told}, wrong=2))  # no place of two is the third
        handle, steps = engine.add(Request(REPEATED[1], GREEDY, 90)), 0
        while engine.busy:
            engine.step()
            steps += 1
        assert handle.completions[0].ids == ids
        assert least <= engine.came / engine.guessed <= most
        assert steps < 20 if told is ids else engine.guessed < 60  # of 90


def test_draws_have_the_distribution_of_the_model() -> None:
    model, prompt = small(), [7, 8, 7, 8, 7, 8]
    with torch.no_grad():
        first = model(torch.tensor([prompt]))[0, -1].softmax(-1)
    engine = Engine(model, batch=8, speculation=PromptLookup())
    handles = [engine.add(Request(prompt, Sampling(seed=256 * i), 3, n=200)) for i in range(5)]
    drawn = Counter(completion.ids[0] for completions in engine.finish(handles) for completion in completions)
    expected = 1000 * first.double()
    common = expected >= 5
    observed = [drawn[int(token)] for token in common.nonzero()]
    rest = 1000 - sum(observed), float(1000 - expected[common].sum())
    chance = stats.chisquare([*observed, rest[0]], [*expected[common].tolist(), rest[1]]).pvalue
    assert chance > 0.001


def test_what_cannot_be_taken_back_is_refused(tmp_path: Path) -> None:
    with refused("--lookup"):
        Engine(made("lstm", tmp_path), speculation=PromptLookup())
    with refused("--lookup"):
        Engine(small(), cache="none", speculation=PromptLookup())


def test_forms_go_on_with_guesses() -> None:
    tokens = raw_bytes()
    model = small(128, tokens.vocab_size)
    form = Constraint("regex", "(abcd){6}x[0-9]{4}")
    texts = []
    for speculation in (None, PromptLookup()):
        engine = Engine(model, tokens, speculation=speculation)
        texts.append(engine.finish([engine.add(Request("abcdabcd", Sampling(seed=3), 60, constraint=form))])[0])
    assert texts[0] == texts[1]
    assert engine.came > 8


def test_from_the_command_line(tmp_path: Path, prints: Prints, fails: Fails) -> None:
    (tmp_path / "corpus.txt").write_text("The sun is warm today. " * 200)
    shape = ["--width", "64", "--context", "64", "--vocabulary", "300", "--steps", "1"]
    for depth in (1, 2):
        prints("pretrain", tmp_path / "corpus.txt", tmp_path / f"model{depth}", "--depth", depth, *shape)
    ask = ["generate", tmp_path / "model2", "--prompt", "The sun is", "--max-new-tokens", "20", "--json"]
    plain = json.loads(prints(*ask))
    assert json.loads(prints(*ask, "--lookup")) == plain
    assert json.loads(prints(*ask, "--draft", tmp_path / "model1")) == plain
    whole = [*ask[:4], "--temperature", "0", "--json"]  # as long as the context, which is the draft's too
    assert json.loads(prints(*whole, "--draft", tmp_path / "model2")) == json.loads(prints(*whole))
    fails(*ask, "--lookup", "--draft", tmp_path / "model1", names=("--lookup", "--draft"))
    fails(*ask, "--lookup", "--beams", "2", "--temperature", "0", names=("--beams",))
    other = [*shape[:4], "--tokenizer", "bytes", *shape[6:]]
    prints("pretrain", tmp_path / "corpus.txt", tmp_path / "other", "--depth", "1", *other)
    fails(*ask, "--draft", tmp_path / "other", names=("--draft",))
