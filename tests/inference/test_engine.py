"""The engine: a text is the same however it is scheduled, stored and read, and no block is ever lost."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from langwright import Engine, Request
from langwright.adaptation.methods import METHODS
from langwright.inference.request import Completion, Handle
from langwright.inference.sampling import Sampling, Search
from langwright.inference.sinks import Streaming
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.text.training import raw_bytes
from oracles import perturb, random_ids
from refusals import refused
from writers import GREEDY, OWN, SAMPLINGS, made, small, written

BYTES = raw_bytes()
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 3, 14, 9, 1)]
LENGTHS = [7, 12, 4, 9, 10]
FAMILIES = [
    "gpt2", "mistral", "gpt_neo", "gptj", "bloom", "mpt", "gemma2", "mixtral", "llama-linear",
    "t5", "switch", "bart", *OWN,
]  # fmt: skip


# The same tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_alone_together_in_blocks_and_preempted(name: str, tmp_path: Path) -> None:
    """Greedy and drawn tokens, and beams, whatever the room: it is so small that texts give way to others."""
    model = made(name, tmp_path)
    alone = [written(model, [p], n, s)[0] for p, n, s in zip(PROMPTS, LENGTHS, SAMPLINGS, strict=True)]
    if name != "switch":  # whose experts turn tokens away by how many they are given at once
        assert written(model, PROMPTS, LENGTHS, SAMPLINGS, cache=False) == alone
    for options in ({"batch": 2}, {"blocks": 8, "block_size": 4}, {"prompt_tokens": 5}, {"block_size": 2}):
        engine = Engine(model, longest=64, **options)  # type: ignore[arg-type]
        room = engine.free_blocks
        for _ in range(1 + ("block_size" in options)):  # the second time the beginnings are there
            assert written(model, PROMPTS, LENGTHS, SAMPLINGS, engine) == alone, options
        assert engine.free_blocks == room
    search = Search(beams=3, length_penalty=0.5)
    alone = [written(model, [prompt], 5, search=search, stop_ids=[20])[0] for prompt in PROMPTS[:3]]
    for blocks in (99, 15):
        engine = Engine(model, blocks=blocks, block_size=4)
        assert written(model, PROMPTS[:3], 5, engine=engine, search=search, stop_ids=[20]) == alone
    if model.encoders:  # beams that are read anew share the blocks of their source, as they did before
        engine = Engine(model, blocks=10, block_size=4)
        assert written(model, PROMPTS[1:3], 5, engine=engine, search=search, stop_ids=[20]) == alone[1:]
        assert engine.free_blocks == engine._memory.blocks.count


def translator() -> Model:
    return new_model("t5", by_depth("t5", 1, 53, 64, 0.0, width=64)).eval()


def dynamic() -> Model:
    """A model whose rotary frequencies depend on how long a text is when a token is read."""
    scaling = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    config = by_depth("llama", 2, 53, 48, 0.0, width=64)
    model = new_model("llama", replace(config, max_position_embeddings=48, rope_parameters=scaling)).eval()
    perturb(model)
    scaled = replace(model.body.rope.scaling, original_max_position_embeddings=8)
    model.body.rope = replace(model.body.rope, scaling=scaled)
    return model


def test_what_depends_on_the_length_of_a_text_is_read_again_as_at_first() -> None:
    """Rotations by the length of a text, and windows, which forget by it."""
    model = dynamic()
    alone = [written(model, [p], 20)[0] for p in PROMPTS]
    engine = Engine(model, blocks=10, block_size=4)
    assert written(model, PROMPTS, 20, engine=engine) == alone
    model = new_model("llama", by_depth("llama", 3, 53, 48, 0.0, width=64)).eval()
    perturb(model)
    streaming, prompt, sampling = Streaming(6, 2), PROMPTS[0], Sampling(seed=7)
    alone = [written(model, [prompt], 39, replace(sampling, seed=7 + i), streaming=streaming)[0] for i in range(5)]
    engine = Engine(model, batch=2, block_size=2, streaming=streaming)
    (found,) = engine.finish([engine.add(Request(prompt, sampling, 39, n=5))])
    assert [one.ids for one in found] == alone


class Reads:
    """How many tokens each pass of an engine reads, of each of its rows."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch):
        self.passes: list[list[int]] = []
        read = engine._memory.read

        def noted(*given: Any) -> Any:
            self.passes.append([piece.length for piece in given[2]])
            return read(*given)

        monkeypatch.setattr(engine._memory, "read", noted)

    def sizes(self) -> list[list[int]]:
        """Those since the last call."""
        passes, self.passes = self.passes, []
        return passes


def test_what_was_read_once_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of 18 tokens in blocks of 4: a common beginning, also of texts that came at once, another salt, a text
    that goes on from what was written, one whose log-probabilities are wanted, and new weights."""
    model, begin = small(), random_ids(1, 16)[0].tolist()
    first, second, third = [*begin, 5, 6], [*begin[:9], *begin[:9]], [*begin, 7, 8]
    engine = Engine(model, blocks=40, block_size=4)
    reads = Reads(engine, monkeypatch)

    def given(*prompts: list[int], **asked: Any) -> tuple[list[list[int]], list[list[int]]]:
        found = written(model, list(prompts), 3, engine=engine, **asked)
        assert found == [written(model, [prompt], 3)[0] for prompt in prompts]
        return reads.sizes(), found

    assert given(first, third)[0][:2] == [[18], [1, 2]]  # the other one waits for the first
    assert given(third)[0][0] == [2]
    assert given(second)[0][0] == [10]
    assert given(first, salt="other")[0][0] == [18]
    assert given(first, prompt_logprobs=0)[0][0] == [18]
    answer = written(model, [first], 9, engine=engine)[0]
    reads.sizes()
    assert given([*first, *answer])[0][0] == [3]  # six blocks of four are there
    engine.forget()
    assert given(first)[0][0] == [18]
    assert given(begin)[0][0] == [4]  # a token is left to be read, whose block is not written into
    engine.add(Request(first))
    with pytest.raises(ValueError, match="on their way"):
        engine.forget()


def test_what_was_left_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two prompts, of which two full blocks each stay: the next one takes those of the other, from its end."""
    model, prompts = small(), [[4 + i] * 11 for i in range(3)]
    engine = Engine(model, blocks=6, block_size=4)
    reads = Reads(engine, monkeypatch)
    for prompt, size in ((0, 11), (1, 11), (0, 3), (2, 11), (0, 3), (1, 7), (2, 7), (0, 7)):
        written(model, [prompts[prompt]], 1, engine=engine)
        assert reads.sizes() == [[size]], prompt


def test_long_prompts_are_read_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 8 tokens of prompts a step, in the order of arrival, beside those who write; experts with a capacity,
    and rotations by the length of a text, want whole prompts."""
    engine = Engine(small(), prompt_tokens=8, block_size=4)
    reads = Reads(engine, monkeypatch)
    short = engine.add(Request([5], GREEDY, 20))
    engine.step()
    long = [engine.add(Request([token] * size, GREEDY, 2)) for token, size in ((6, 19), (7, 9))]
    reads.sizes()
    found = []
    for _ in range(6):
        engine.step()
        found.append(sorted(size for sizes in reads.sizes() for size in sizes))
    assert found == [[1, 8], [1, 8], [1, 3, 5], [1, 1, 4], [1, 1], [1]]
    assert [handle.completions[0].ids for handle in long] == written(small(), [[6] * 19, [7] * 9], 2)
    assert not short.done
    engine = Engine(dynamic(), prompt_tokens=8)
    reads = Reads(engine, monkeypatch)
    written(engine.model, [[6] * 19, [7] * 9], 1, engine=engine)
    assert reads.sizes() == [[19], [9]]


def test_only_what_lies_in_blocks_is_reused(tmp_path: Path) -> None:
    kinds = {"gpt2": True, "mistral": True, "gemma2": True, "lstm": False, "t5": False, "lstm-attention": False}
    for name, reuses in kinds.items():
        assert Engine(made(name, tmp_path / name))._memory.reuses is reuses, name
    assert not Engine(dynamic())._memory.reuses
    assert not Engine(scheduled_model(), streaming=Streaming(8))._memory.reuses


def test_several_texts_of_a_prompt_are_those_of_their_seeds() -> None:
    model, sampling = small(), Sampling(seed=7)
    alone = [written(model, [PROMPTS[0]], 15, Sampling(seed=7 + i))[0] for i in range(3)]
    for options in ({"batch": 8}, {"batch": 1}, {"blocks": 7, "block_size": 4}):
        engine = Engine(model, **options)  # type: ignore[arg-type]
        (found,) = engine.finish([engine.add(Request(PROMPTS[0], sampling, 15, n=3))])
        assert [one.ids for one in found] == alone, options
    assert len({tuple(ids) for ids in alone}) == 3


def test_texts_share_the_blocks_of_their_prompt_until_they_write_into_them() -> None:
    engine = Engine(small(), blocks=30, block_size=4)
    handle = engine.add(Request(random_ids(1, 18)[0].tolist(), Sampling(), 9, n=5))
    engine.step()
    assert engine.free_blocks == 30 - 5  # four full blocks and one begun, read by all
    engine.step()
    assert engine.free_blocks == 30 - 5 - 4
    engine.cancel(handle)
    assert engine.free_blocks == 30


def test_the_best_of_several() -> None:
    """Those with the highest mean log-probability of a token."""
    model = small()
    engine = Engine(model)
    every = engine.finish([engine.add(Request(PROMPTS[0], Sampling(seed=1), 9, n=6, logprobs=0))])[0]
    (best,) = engine.finish([handle := engine.add(Request(PROMPTS[0], Sampling(seed=1), 9, n=2, best_of=6))])
    mean = lambda one: sum(p.logprob for p in one.logprobs) / len(one.ids)  # noqa: E731
    assert [one.ids for one in best] == [one.ids for one in sorted(every, key=mean, reverse=True)[:2]]
    assert best[0].logprobs is None
    assert handle.done


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"blocks": 8, "block_size": 4}])
def test_log_probabilities_are_those_of_the_model(options: dict[str, int]) -> None:
    """Before any setting of the draw; the room is so small in one case that the text is read again."""
    model = small()
    engine = Engine(model, **options)  # type: ignore[arg-type]
    asked = Request(PROMPTS[2], Sampling(0.5, top_k=3), 12, logprobs=4, prompt_logprobs=2)
    handles = [engine.add(Request(PROMPTS[0], GREEDY, 14)), engine.add(asked)]
    ((_,), (found,)) = engine.finish(handles)
    ids = torch.tensor([PROMPTS[2] + found.ids])
    scores, start = model(ids)[0].log_softmax(-1), len(PROMPTS[2])
    assert found.logprobs is not None
    assert found.prompt_logprobs is not None
    told = [*found.prompt_logprobs, *found.logprobs]
    assert [one.token for one in told] == ids[0, 1:].tolist()
    for place, one in enumerate(told):
        best = scores[place].topk(4 if place >= start - 1 else 2)
        assert one.logprob == pytest.approx(float(scores[place, one.token]), abs=1e-4)
        assert [token for token, _ in one.top] == best.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("asked", [{}, {"n": 2}, {"n": 2, "best_of": 3}, {"search": Search(beams=2)}])
def test_what_is_streamed_is_the_whole_text(asked: dict[str, Any]) -> None:
    model = small(size=BYTES.vocab_size)
    engine = Engine(model, BYTES, blocks=14, block_size=4)
    sampling = GREEDY if "search" in asked else Sampling(0.3)
    handles = [engine.add(Request(text, sampling, 20, ["e", "zz"], **asked)) for text in ("a cat", "the", "é")]
    heard: dict[tuple[int, int], list[str]] = {}
    while engine.busy:
        engine.step()
        for number, handle in enumerate(handles):
            for text in range(handle.request.n):
                heard.setdefault((number, text), []).append(handle.read(text))
    for number, handle in enumerate(handles):
        assert len(handle.completions) == handle.request.n
        for text, one in enumerate(handle.completions):
            assert "".join(heard[number, text]) == one.text
    if not asked:
        assert len([piece for piece in heard[0, 0] if piece]) > 1


# Who goes first, and who goes


def test_priority_and_arrival_say_who_goes_first() -> None:
    engine = Engine(small(), batch=1)
    handles = [engine.add(Request([5], GREEDY, 2, priority=priority)) for priority in (0, 0, 3, 1)]
    order: list[int] = []
    while engine.busy:
        engine.step()
        order += [i for i, handle in enumerate(handles) if handle.done and i not in order]
    assert order == [2, 3, 0, 1]


def test_the_one_with_the_lowest_priority_gives_way() -> None:
    engine = Engine(small(), blocks=6, block_size=4)
    low, high, middle = (engine.add(Request([5, 6], GREEDY, 8, priority=priority)) for priority in (0, 2, 1))
    for _ in range(8):
        engine.step()
    assert high.done
    assert middle.done
    assert not low.done
    assert len(engine.finish([low])[0][0].ids) == 8


def test_deadlines_and_cancelled_requests() -> None:
    now = [0.0]
    engine = Engine(small(), batch=2, clock=lambda: now[0])
    room, asked = engine.free_blocks, Request(PROMPTS[0], GREEDY, 30, deadline=5.0)
    late, never, cancelled = (engine.add(asked), engine.add(Request([7], GREEDY, 30, n=2)), engine.add(asked))
    whole = written(small(), [PROMPTS[0]], 30)[0]
    for _ in range(4):
        engine.step()
    engine.cancel(cancelled)
    engine.cancel(cancelled)
    assert [(one.reason, one.ids) for one in cancelled.completions] == [("cancelled", [])]
    now[0] = 5.0
    engine.step()
    assert [(one.reason, one.ids) for one in late.completions] == [("deadline", whole[:4])]
    engine.step()
    engine.cancel(never)
    assert [(one.reason, len(one.ids)) for one in never.completions] == [("cancelled", 2)] * 2
    assert engine.free_blocks == room
    assert not engine.busy


def test_a_step_that_fails_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass of every other step fails."""
    for name in ("gpt2", "lstm"):
        model = small() if name == "gpt2" else new_model(name, OWN[name]).eval()
        perturb(model)
        alone = [written(model, [p], n, s)[0] for p, n, s in zip(PROMPTS, LENGTHS, SAMPLINGS, strict=True)]
        engine = Engine(model, batch=3)
        read, passes, failures = engine._memory.read, 0, 0

        def failing(*given: Any, read: Any = read) -> Any:
            nonlocal passes
            passes += 1
            if passes == 2 and step % 2:  # noqa: B023
                raise MemoryError
            return read(*given)

        monkeypatch.setattr(engine._memory, "read", failing)
        handles = []
        for step in range(99):
            if step % 3 == 0 and step < 15:
                handles.append(engine.add(Request(PROMPTS[step // 3], SAMPLINGS[step // 3], LENGTHS[step // 3])))
            passes = 0
            try:
                engine.step()
            except MemoryError:
                failures += 1
        assert [handle.completions[0].ids for handle in handles] == alone
        assert failures > 1
        assert engine.free_blocks == engine._memory.blocks.count


def test_steps_tell_of_what_is_new() -> None:
    """Every piece of text and every end, once; and nothing of a request is kept after its end."""
    engine = Engine(small(size=BYTES.vocab_size), BYTES, batch=2)
    handles = [
        engine.add(Request(text, Sampling(seed=1), 6, n=n, deadline=99)) for text, n in (("a", 1), ("b", 2), ("c", 1))
    ]
    read: dict[tuple[Handle, int], str] = {}
    ended: list[Handle] = []
    while engine.busy:
        for handle in engine.step():
            ended += [handle] * handle.done
            for text in range(handle.request.n):
                read[handle, text] = read.get((handle, text), "") + handle.read(text)
    assert sorted(map(handles.index, ended)) == [0, 1, 2]
    assert read == {(h, i): one.text for h in handles for i, one in enumerate(h.completions)}
    assert not engine._timed
    assert not engine._jobs
    with pytest.raises(ValueError, match="another engine"):
        engine.finish([Engine(engine.model).add(Request([5]))])


def test_sources_count_as_prompts_do() -> None:
    """A step reads sources of 20 tokens at the most, and one pass does not mix long with short ones."""
    model = translator()
    engine, encode, read = Engine(model, prompt_tokens=20), model.encode, []
    model.encode = lambda *given: read.append(tuple(given[0].shape)) or encode(*given)  # type: ignore[method-assign]
    handles = [engine.add(Request([5] * length, GREEDY, 3)) for length in (9, 9, 9, 30, 3)]
    engine.finish(handles)
    assert read == [(2, 9), (1, 9), (1, 30), (1, 3)]


def test_there_is_room_for_the_virtual_tokens_of_an_encoder() -> None:
    model = translator()
    METHODS["prompt"](tokens=33).attach(model, seed=1)
    assert len(written(model, [[5] * 30], 20, engine=Engine(model, batch=1, longest=30))[0]) == 20


def test_numbers_that_are_not_finite_end_one_request_and_spoil_no_block() -> None:
    """Token 52 makes everything NaN; what it leaves in its blocks must not reach those who get them next."""
    model = small()
    expected = written(model, PROMPTS, LENGTHS)
    with torch.no_grad():
        model.body.embed.tokens[52] = math.nan
        model.head.weight = torch.nn.Parameter(model.head.weight.nan_to_num().clone())
    engine = Engine(model, blocks=40, block_size=4)
    bad = engine.add(Request([3, 52, 4], Sampling(), 9, n=2))
    assert written(model, PROMPTS, LENGTHS, engine=engine) == expected
    assert [(one.reason, one.ids) for one in bad.completions] == [("error", [])] * 2
    assert "finite" in str(bad.completions[0].error)
    assert engine.free_blocks == 40
    assert written(model, PROMPTS, LENGTHS, engine=engine) == expected


def test_rules_that_leave_no_token_end_one_request() -> None:
    engine = Engine(small())
    bad = engine.add(Request([5], Sampling(), 9, banned=range(53)))
    assert len(written(engine.model, [[6]], 4, engine=engine)[0]) == 4
    assert [(one.reason, one.ids) for one in bad.completions] == [("error", [])]
    nothing = Request([5], GREEDY, 9, banned=range(53), search=Search(beams=2), n=2)
    (none,) = engine.finish([engine.add(nothing)])
    assert [(one.reason, one.ids) for one in none] == [("error", [])] * 2
    assert not engine.busy


def test_the_best_of_several_is_not_a_broken_one() -> None:
    """Token 52 makes everything NaN, and the text that drew it has few tokens, all likely."""
    model = small()
    with torch.no_grad():
        model.body.embed.tokens[52] = math.nan
        model.head.weight = torch.nn.Parameter(model.head.weight.nan_to_num().clone())
    engine = Engine(model)
    for seed in range(4):
        asked = Request([5], Sampling(seed=seed), 12, best_of=8, logit_bias={52: 2.0})
        every = engine.finish([engine.add(replace(asked, n=8))])[0]
        assert {one.error is None for one in every} == {True, False}
        assert engine.finish([engine.add(asked)])[0][0].error is None


def test_rules_of_a_request() -> None:
    model = small()
    plain = written(model, [[5, 6]], 8)[0]
    biased = written(model, [[5, 6]], 8, logit_bias={11: 1e4})[0]
    assert biased == [11] * 8
    assert written(model, [[5, 6]], 8, forced=plain[:2])[0] == plain
    assert written(model, [[5, 6]], 3, forced=[9, 8])[0][:2] == [9, 8]
    assert not set(written(model, [[5, 6]], 8, banned=plain)[0]) & set(plain)


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        (lambda e: Request("a", n=0), "--n 0"),
        (lambda e: Request("a", n=3, best_of=2), "--best-of 2"),
        (lambda e: Request("a", logprobs=101), "--logprobs 101"),
        (lambda e: Request("a", deadline=0.0), "--deadline 0"),
        (lambda e: Request("a", stop=["b", ""]), "stop"),
        (lambda e: Request("a", logit_bias={3: math.nan}), "--logit-bias 3"),
        (lambda e: Request("a", search=Search(beams=2), n=3), ("--n 3", "--beams 2")),
        (lambda e: Request("a", search=Search(beams=2), logprobs=1), "--logprobs 1"),
        (lambda e: e.add(Request([53])), "53"),
        (lambda e: e.add(Request([-1])), "-1"),
        (lambda e: e.add(Request([])), "prompt"),
        (lambda e: e.add(Request("a")), "tokenizer"),
        (lambda e: e.add(Request([5], stop_ids=[99])), ("stop_ids", "99")),
        (lambda e: e.add(Request([5], logit_bias={99: 1.0})), ("logit_bias", "99")),
        (lambda e: e.add(Request([5] * 49)), ("49", "48")),
        (lambda e: e.add(Request([5] * 20, max_new_tokens=14)), ("8 blocks",)),
        (lambda e: e.add(Request([5], GREEDY, 16, search=Search(beams=3))), ("8 blocks", "--beams 3")),
        (lambda e: Engine(e.model, batch=0), "--batch 0"),
        (lambda e: Engine(e.model, blocks=0), "--blocks 0"),
        (lambda e: Engine(e.model, blocks=-1), "--blocks -1"),
        (lambda e: Engine(e.model, longest=-5), "--longest -5"),
        (lambda e: Engine(e.model, blocks=9, cache="none"), ("--blocks", "cache")),
        (lambda e: Engine(e.model, memory=9**9, streaming=Streaming(8)), ("--memory", "--window")),
        (
            lambda e: Engine(new_model("t5", by_depth("t5", 1, 53, 16, 0.0, width=64))).add(
                Request([5], prompt_logprobs=1)
            ),
            "--prompt-logprobs",
        ),
        (lambda e: Engine(e.model, memory=10), "--memory 10"),
        (lambda e: Engine(new_model("gpt2", e.model.config, head="hidden")), "hidden"),
    ],
)
def test_what_is_refused(ask: Callable[[Engine], object], names: str | tuple[str, ...]) -> None:
    engine = Engine(small(), blocks=8, block_size=4)
    with refused(*([names] if isinstance(names, str) else names)):
        ask(engine)
    assert not engine.busy


def test_memory_is_counted_in_bytes() -> None:
    """Keys and values of two layers, two heads of 8 numbers, 16 tokens: 4,096 bytes a block."""
    assert Engine(small(), memory=3 * 4096 + 100).free_blocks == 3
    assert Engine(small(context=48), batch=4).free_blocks == 4 * 3


# Random schedules


@cache
def scheduled_model() -> Model:
    config = LlamaConfig(
        vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40,
    )  # fmt: skip
    model = new_model("llama", config).eval()
    perturb(model)
    return model


@cache
def expected(prompt: tuple[int, ...], seed: int, new: int, n: int, beams: int) -> list[list[int]]:
    """What comes of a request that is alone in an engine with all the room it wants."""
    engine = Engine(scheduled_model(), batch=16)
    return [one.ids for one in engine.finish([engine.add(request(prompt, seed, new, n, beams))])[0]]


def request(prompt: tuple[int, ...], seed: int, new: int, n: int, beams: int, priority: int = 0) -> Request:
    sampling = GREEDY if beams > 1 or not seed else Sampling(0.8, seed=seed)
    return Request(prompt, sampling, new, stop_ids=[3], search=Search(beams=beams), n=n, priority=priority)


class Schedules(RuleBasedStateMachine):
    """Requests of all kinds come, go on, give way and are cancelled, in hardly any room."""

    @initialize(blocks=st.integers(6, 14), size=st.integers(1, 4), batch=st.integers(1, 5), tokens=st.integers(1, 20))
    def begin(self, blocks: int, size: int, batch: int, tokens: int) -> None:
        jaxtyping.config.update("jaxtyping_disable", True)  # checked by the other tests; here they double the time
        self.engine = Engine(scheduled_model(), blocks=blocks, block_size=size, batch=batch, prompt_tokens=tokens)
        self.asked: dict[Handle, list[list[int]]] = {}
        self.cancelled: set[Handle] = set()

    @rule(
        length=st.integers(1, 8), seed=st.integers(0, 2), new=st.integers(1, 8), kind=st.sampled_from([1, 1, 2, 3, -2]),
        priority=st.integers(0, 1), common=st.booleans(),
    )  # fmt: skip
    def add(self, length: int, seed: int, new: int, kind: int, priority: int, common: bool) -> None:
        prompt = tuple(4 + ((1 if common else length) * i * i + (0 if common else seed)) % 25 for i in range(length))
        asked = prompt, seed, new, max(kind, 1), max(-kind, 1)
        blocks = self.engine._memory.blocks
        if blocks.needed(max(length, length + new - 1)) * asked[4] > blocks.count:
            with refused("blocks"):
                self.engine.add(request(*asked))
        else:
            self.asked[self.engine.add(request(*asked, priority))] = expected(*asked)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.step()

    @precondition(lambda self: any(not handle.done for handle in self.asked))
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        handle = data.draw(st.sampled_from([one for one in self.asked if not one.done]))
        self.engine.cancel(handle)
        self.cancelled.add(handle)

    @invariant()
    def no_block_is_lost_and_no_token_mixed_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        blocks, scheduler = self.engine._memory.blocks, self.engine._scheduler
        texts = [text for group in scheduler.running for text in group.texts]
        held = [block for text in texts for block in text.tables[0]]
        assert [held.count(block) for block in range(blocks.count)] == blocks.holders
        assert blocks.free == blocks.count - len(set(held))
        assert sorted([*blocks._free, *blocks._left, *set(held)]) == list(range(blocks.count))
        assert {block: name for name, block in blocks._named.items()} == {b: n[0] for b, n in blocks._names.items()}
        assert not any(text.tables[0] for group in scheduler.waiting for text in group.texts)
        for handle in [handle for handle in self.asked if handle.done]:
            truth = self.asked.pop(handle)
            assert len(handle.completions) == len(truth) or handle in self.cancelled
            for one, whole in zip(handle.completions, truth, strict=False):
                self.check(one, whole, handle)

    def check(self, one: Completion, whole: list[int], handle: Handle) -> None:
        if one.reason == "cancelled":
            assert handle in self.cancelled
            assert handle.request.search.beams > 1 or one.ids == whole[: len(one.ids)]
        else:
            assert one.ids == whole

    def teardown(self) -> None:
        jaxtyping.config.update("jaxtyping_disable", False)
        if hasattr(self, "engine"):
            for _ in range(300):
                if self.engine.busy:
                    self.engine.step()
            assert not self.engine.busy
            self.no_block_is_lost_and_no_token_mixed_up()
            assert self.engine.free_blocks == self.engine._memory.blocks.count


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_schedules() -> None:
    many = settings(max_examples=1000, stateful_step_count=15, deadline=None)
    run_state_machine_as_test(Schedules, settings=many)  # type: ignore[no-untyped-call]
