"""New tokens are decoded after those before them: the text that both give, without the text of the prompt."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import assume, example, given
from hypothesis import strategies as st

from langwright.inference.engine import Engine
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling, Search
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.text.opening import load_tokenizer
from langwright.text.special_tokens import SpecialTokens
from langwright.text.tokenizer import StreamDecoder, Tokenizer
from langwright.text.training import raw_bytes, train_bpe

from .test_chat_template import sentencepiece_like as unigram
from .test_tokenizer import sentencepiece_like
from .test_vocabularies import wordpiece, write_merges

WORDS = st.lists(st.sampled_from(["cat", "the", "ate", "c", "é", ".", " ", "\n"]), min_size=1, max_size=8).map(" ".join)
GREEDY = Sampling(temperature=0)
ROLES = SpecialTokens(bos="<s>", eos="</s>", unk="<unk>")
KINDS = ["llama", "prepend", "always", "first", "never", "trimming", "wordpiece", "gpt1", "bpe", "bytes"]


def made(kind: str, folder: Path) -> Tokenizer:
    match kind:
        case "llama":
            return Tokenizer(sentencepiece_like(), ROLES, {"add_bos_token": True})
        case "wordpiece":
            return wordpiece(folder)
        case "gpt1":
            merges = [("a", "t"), ("c", "at</w>"), ("t", "h"), ("th", "e</w>")]
            letters = [*"catheé.", *(f"{letter}</w>" for letter in "catheé.")]
            write_merges(folder, ["<unk>", *letters, "at", "at</w>", *(a + b for a, b in merges[1:])], merges)
            return load_tokenizer(folder)
        case "bpe":
            return train_bpe(["the cat ate the cat\n" * 5], 280)
        case "bytes":
            return raw_bytes()
    return Tokenizer(unigram(kind), ROLES, {"add_bos_token": True})


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    ours = made(request.param, folder)
    ours.save(folder / "saved")
    return ours, transformers.AutoTokenizer.from_pretrained(folder / "saved")


@given(text=WORDS, at=st.integers(0, 30))
@example("cat ate the cat", 1)
@example("cat ate the cat", 2)
def test_a_continuation_is_what_it_adds_to_the_prompt(both: tuple[Tokenizer, Any], text: str, at: int) -> None:
    ours, theirs = both
    ids = [*ours.prefix, *ours.encode(text)]
    prompt, new = ids[:at], ids[at:]
    whole, begun = (theirs.decode(one, skip_special_tokens=True) for one in (ids, prompt))
    assume("\ufffd" not in begun)
    stream = StreamDecoder(ours, prompt)
    pieces = "".join([*map(stream.feed, new), stream.flush()])
    assert pieces == whole.removeprefix(begun)
    assert ours.decode(ids, skip_special=True) == whole == begun + pieces


def test_prompts_go_on_in_streams_joins_stops_and_beams() -> None:
    tokenizer = Tokenizer(sentencepiece_like(), ROLES, {"add_bos_token": True})
    model = new_model(
        "llama",
        LlamaConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
                    num_key_value_heads=1, intermediate_size=24, max_position_embeddings=60),
    )  # fmt: skip
    new = tokenizer.encode("cat cat")
    engine = Engine(model, tokenizer)
    for prompt, expected in (("cat", " cat cat"), ("", "cat cat")):
        for search in (Search(), Search(beams=3)):
            handle, heard = engine.add(Request(prompt, GREEDY, len(new), search=search, forced=new)), []
            while engine.busy:
                engine.step()
                heard.append(handle.read())
            assert handle.completions[0].text == "".join(heard) == expected
    for stop, left in ((" cat", ""), ("t c", " ca")):
        ((done,),) = engine.finish([engine.add(Request("cat", GREEDY, len(new), [stop], forced=new))])
        assert (done.text, done.reason) == (left, "stop")
