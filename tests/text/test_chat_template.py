"""Chat templates against `transformers`: the same text, the same ids, the same assistant's tokens."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from langwright.text.chat_template import TEMPLATES, ChatTemplate, own_template, set_up_chat, template_source
from langwright.text.opening import load_tokenizer
from langwright.text.special_tokens import SpecialTokens
from langwright.text.tokenizer import CONTROL, Tokenizer
from langwright.text.training import train_bpe

from ..refusals import refused
from .published_templates import CHATML, GEMMA, LLAMA2, LLAMA3, PUBLISHED, QWEN2_5, ZEPHYR

SYSTEM = {"role": "system", "content": "Be brief, as a cat."}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "What did the cat eat?"},
    {"role": "assistant", "content": "A tuna. 🐟"},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "It slept\n\n  twice."},
]
CALL = {"type": "function", "function": {"name": "weigh", "arguments": {"what": "<tuna & co>", "times": 2}}}
TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "Its weight.", "parameters": {}}}]
WITH_TOOLS: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "How heavy?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2 kg"},
    {"role": "assistant", "content": "Two kilograms."},
]
SPECIALS = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", *TEMPLATES["llama3"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    plain = train_bpe(["the cat did eat a tuna and then it slept twice, user assistant system\n" * 20], 320)
    return plain.extended(SPECIALS, plain.special_tokens, "")


def peer(tokenizer: Tokenizer, source: str, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer.extended((), tokenizer.special_tokens, source).save(folder)
    return AutoTokenizer.from_pretrained(folder)


def chats(name: str) -> list[list[dict[str, Any]]]:
    return [TURNS, TURNS[:2]] if name in ("mistral", "gemma") else [TURNS, [SYSTEM, *TURNS], [SYSTEM, *TURNS[:2]]]


@pytest.mark.parametrize("name", [*PUBLISHED, *(f"own {name}" for name in TEMPLATES)])
def test_text_and_ids_are_those_of_transformers(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = template_source(name[4:]) if name.startswith("own ") else PUBLISHED[name]
    theirs = peer(tokenizer, source, tmp_path)
    ours = own_template(load_tokenizer(tmp_path), str(tmp_path))
    assert ours is not None
    for messages in chats(name):
        for ask in (False, True):
            text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
            assert ours.render(messages, add_generation_prompt=ask) == text
        ids = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        assert ours.prompt_ids(messages[:-1]) == ids
        assert ours.encode(messages).ids == theirs.apply_chat_template(messages)["input_ids"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_of_generation_blocks_are_those_of_transformers(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = peer(tokenizer, template_source(name), tmp_path)
    ours = own_template(load_tokenizer(tmp_path), "x")
    assert ours is not None
    for messages in chats(name):
        expected = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        encoded = ours.encode(messages)
        assert [int(x) for x in encoded.trained] == expected["assistant_masks"]
        assert tokenizer.token(encoded.ids[max(i for i, t in enumerate(encoded.trained) if t)]).startswith("<|e") or (
            name == "chatml"
        )


@pytest.mark.parametrize(
    ("own", "published"), [("chatml", CHATML), ("zephyr", ZEPHYR), ("llama2", LLAMA2), ("llama3", LLAMA3)]
)
def test_built_in_templates_write_what_the_published_ones_write(own: str, published: str, tokenizer: Tokenizer) -> None:
    ours, theirs = (ChatTemplate(source, tokenizer, own) for source in (template_source(own), published))
    for messages in ([SYSTEM, *TURNS], TURNS):
        assert ours.render(messages) == theirs.render(messages)
        asked = ours.render(messages[:-1], add_generation_prompt=True)
        assert asked == theirs.render(messages[:-1], add_generation_prompt=True)


def test_alpaca_is_the_published_prompt(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(template_source("alpaca"), tokenizer, "alpaca")
    alone = [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "Tuna"}]
    assert template.render(alone) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a fish.\n\n### Response:Tuna<|eos|>"
    )
    with_input = [{"role": "user", "content": "Name it.\n\n### Input:\nA fish."}]
    assert template.render(with_input) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName it.\n\n### Input:\nA fish.\n\n### Response:"
    )


@pytest.mark.parametrize("name", [*PUBLISHED, "own chatml"])
def test_the_prefix_method_finds_the_words_and_their_stop(name: str, tokenizer: Tokenizer) -> None:
    """It agrees with blocks where there are both; headers are out, the stop is in, what follows it is out."""
    source = PUBLISHED.get(name) or template_source("chatml").replace("{%- generation %}", "").replace(
        "{%- endgeneration %}", ""
    )
    template = ChatTemplate(source, tokenizer, name)
    for messages in chats(name):
        rendered = template.answers(messages)
        spans = [rendered.text[start:end].replace(CONTROL, "") for start, end in rendered.answers]
        stop = {"chatml": "<|im_end|>", "own chatml": "<|im_end|>", "llama3": "<|eot_id|>", "qwen2.5": "<|im_end|>"}
        end = stop.get(name) or {"gemma": "<end_of_turn>"}.get(name, "<|eos|>")
        wanted = [m["content"] for m in messages if m["role"] == "assistant"]
        assert [span.strip() for span in spans] == [
            f"{text} {end}" if name == "llama2" else f"{text}{end}" for text in wanted
        ]


@pytest.mark.parametrize("name", ["zephyr", "chatml"])
def test_training_sees_the_tokens_after_which_a_model_will_answer(name: str) -> None:
    """A tokenizer of code joins the end of a line to the blanks after it: no such token reaches into an answer."""
    plain = train_bpe(["def f(x):\n    if x:\n        return x\n\n    pass\n" * 20], 280)
    code = plain.extended(SPECIALS, plain.special_tokens, "")
    template = ChatTemplate(template_source(name), code, name)
    asked = [{"role": "user", "content": "def f(x):"}]
    answered = [*asked, {"role": "assistant", "content": "    return x"}]
    before, whole = template.prompt_ids(asked), template.encode(answered)
    joined = code.encode_marked(template.marked(answered, None))[0]
    assert joined[: len(before)] != before, "nothing to see: no token reaches over the beginning"
    assert whole.ids[: len(before)] == before
    assert whole.trained.index(True) == len(before)
    assert code.decode(whole.ids) == code.decode(joined)
    twice = template.encode([*answered, *answered])
    assert sum(twice.trained) == 2 * sum(whole.trained)


VICUNA = (
    "{% for m in messages %}{{ bos_token if m.role == 'user' }}{{ '[INST] ' if m.role == 'user' }}{{ m.content }}"
    "{{ ' [/INST] ' if m.role == 'user' else eos_token }}{% endfor %}"
)
"""LLaMA 2's, with a blank before the answer that belongs to the question: a token would reach over it."""


def sentencepiece_like(kind: str) -> tokenizers.Tokenizer:
    """As LLaMA 2's and its like: a blank becomes ▁, and one is put before each text, or each stretch of it."""
    words = ["▁[INST]", "▁[/INST]", "▁the", "▁cat", "▁ate", "cat", "ate", "▁▁"]
    singles = [*dict.fromkeys("▁" + "".join(words))]
    specials = ["<unk>", "<s>", "</s>"]
    bare = tokenizers.Tokenizer(
        Unigram([(t, 0.0) for t in specials] + [(t, -len(t) / 9) for t in words] + [(t, -9.0) for t in singles], 0)
    )
    if kind == "trimming":  # T5's, as it is read from a SentencePiece model
        before = [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
        bare.normalizer = normalizers.Sequence([*before, normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bare.decoder = decoders.Metaspace("▁", "always")
    elif kind == "prepend":
        bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        after = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        bare.decoder = decoders.Sequence(after)
    else:
        bare.pre_tokenizer = pre_tokenizers.Metaspace("▁", kind)
        bare.decoder = decoders.Metaspace("▁", kind)
    bare.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True) for t in specials])
    return bare


@pytest.mark.parametrize("kind", ["prepend", "first", "always", "never"])
def test_an_answer_has_no_second_blank_where_it_is_cut_off_its_question(kind: str, tmp_path: Path) -> None:
    roles = SpecialTokens(bos="<s>", eos="</s>", unk="<unk>")
    ours = Tokenizer(sentencepiece_like(kind), roles)
    theirs = peer(ours, VICUNA, tmp_path)
    template = ChatTemplate(VICUNA, ours, kind)
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "ate the cat"}] * 2
    cut, before = template.encode(turns), template.prompt_ids(turns[:1])
    whole = theirs.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert ours.encode_marked(template.marked(turns, None))[0] == whole
    assert cut.ids[: len(before)] == before
    assert cut.trained.index(True) == len(before)
    named = [[ours.token(i) for i in ids] for ids in (cut.ids, whole)]
    parts = named[1].index(" ate"), named[1].index(" ate", named[1].index(" ate") + 1)
    for at in reversed(parts):  # what reached over the beginning is in two; all else is as in the whole
        named[1][at : at + 1] = [" ", "ate"]
    assert named[0] == named[1]
    assert [named[0][i] for i, trained in enumerate(cut.trained) if trained] == ["ate", " the", " cat", "</s>"] * 2
    assert ours.decode(cut.ids) == ours.decode(whole)


def test_a_cut_keeps_the_blank_that_a_tokenizer_trims_off_texts() -> None:
    ours = Tokenizer(sentencepiece_like("trimming"), SpecialTokens(bos="<s>", eos="</s>", unk="<unk>"))
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "ate the cat"}] * 2
    template = ChatTemplate(VICUNA, ours, "trimming")
    assert ours.decode(template.encode(turns).ids) == ours.decode(ours.encode_marked(template.marked(turns, None))[0])


def test_blanks_that_a_tokenizer_leaves_out_of_its_places_are_an_answers_too(tmp_path: Path) -> None:
    """GPT-NeoX and RoBERTa say of " return" that it stands where its "r" does, and of blanks alone that they are empty.

    What is trained is then the same as by a tokenizer that tells the whole places.
    """
    plain = train_bpe(["def f(x):\n    if x:\n        return x\n\n    pass\n" * 20], 280)
    plain.extended(SPECIALS, plain.special_tokens, "").save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    messages = [{"role": "user", "content": "def f(x):"}, {"role": "assistant", "content": "    return x"}]
    seen = []
    for trims in (False, True):
        trimming = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trims, "use_regex": True}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"post_processor": trimming}))
        code = load_tokenizer(tmp_path)
        whole = ChatTemplate(template_source("zephyr"), code, "zephyr").encode(messages)
        answer = [id for id, trained in zip(whole.ids, whole.trained, strict=True) if trained]
        assert code.decode(answer) == "    return x<|eos|>"
        seen.append(whole)
    assert seen[0] == seen[1]


def test_tools_are_rendered_as_transformers_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for number, source in enumerate((QWEN2_5, template_source("chatml"))):
        theirs = peer(tokenizer, source, tmp_path / str(number))
        ours = ChatTemplate(source, tokenizer, "x")
        expected = theirs.apply_chat_template(WITH_TOOLS, tools=TOOLS, tokenize=False)
        assert ours.render(WITH_TOOLS, TOOLS) == expected
        assert '"<tuna & co>"' in expected
        spans = ours.answers(WITH_TOOLS, TOOLS)
        called, said = (spans.text[start:end].replace(CONTROL, "") for start, end in spans.answers)
        assert '"name": "weigh"' in called
        assert called.endswith("</tool_call><|im_end|>")
        assert said == "Two kilograms.<|im_end|>"


@pytest.mark.parametrize("name", ["zephyr", "alpaca", "llama2", "llama3"])
@pytest.mark.parametrize("tools", [TOOLS, None])
def test_templates_without_tools_refuse_them(name: str, tools: Any, tokenizer: Tokenizer) -> None:
    with refused("tools"):
        ChatTemplate(template_source(name), tokenizer, name).render(WITH_TOOLS if tools is None else TURNS, tools)


def test_only_answers_from_a_message_on(tokenizer: Tokenizer) -> None:
    for source in (template_source("chatml"), CHATML):
        rendered = ChatTemplate(source, tokenizer, "x").answers(TURNS, trained=range(2, len(TURNS)))
        assert [rendered.text[a:b] for a, b in rendered.answers] == [f"It slept\n\n  twice.{CONTROL}<|im_end|>"]
        both = ChatTemplate(source, tokenizer, "x").answers(TURNS)
        only = ChatTemplate(source, tokenizer, "x").answers(TURNS, trained=(1,))
        assert only.answers == both.answers[:1]


def test_a_stop_right_after_a_block_is_trained_too(tokenizer: Tokenizer) -> None:
    source = template_source("chatml").replace(
        "{{- '<|im_end|>' }}\n        {%- endgeneration %}", "{%- endgeneration %}{{- '<|im_end|>' }}"
    )
    assert source != template_source("chatml")
    rendered = ChatTemplate(source, tokenizer, "x").answers(TURNS)
    assert all(rendered.text[start:end].endswith("<|im_end|>") for start, end in rendered.answers)


def test_several_templates_are_chosen_as_transformers_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": QWEN2_5}]

    made = tokenizer.extended((), tokenizer.special_tokens, CHATML)
    made.save(tmp_path)

    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    ours = load_tokenizer(tmp_path)
    assert own_template(ours, "x").source == CHATML
    (tmp_path / "chat_template.jinja").write_text(GEMMA)
    assert own_template(load_tokenizer(tmp_path), "x").source == GEMMA
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == GEMMA


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{% for m in messages %}{{ m }", "line 1"),
        ("{{ raise_exception('no cats') }}", "no cats"),
        ("{{ nobody + 'a' }}", "'nobody'"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}", "eos_token"),
        ("{% for m in messages %}{{ loop.length ~ m['content'] + eos_token }}{% endfor %}", "message"),
        ("{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}", "generation"),
    ],
)
def test_what_a_template_does_wrong_is_told_in_one_line(source: str, name: str, tokenizer: Tokenizer) -> None:
    with refused("folder", name):
        ChatTemplate(source, tokenizer, "folder").answers(TURNS)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("", "user"),
        ("{% for m in messages %}{{ m.contnt }}{{ eos_token }}{% endfor %}", "user"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{{ eos_token }}{% endfor %}", "assistant"),
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.answer }}{{ eos_token }}"
            "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
            "assistant",
        ),
        ("caf\xe9", "offset 3"),
    ],
)
def test_a_template_that_loses_what_was_said_is_refused(
    source: str, name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "own.jinja"
    file.write_bytes(source.encode("latin-1"))
    with refused("own.jinja", name):
        set_up_chat(tokenizer, str(file), may_grow=True, where="folder")
    own = tokenizer.extended((), tokenizer.special_tokens, source)
    if source and source.isascii():
        with refused("folder", name):
            set_up_chat(own, None, may_grow=True, where="folder")


def test_dates_come_from_the_clock(tokenizer: Tokenizer) -> None:
    year = ChatTemplate("{{ strftime_now('%Y') }}", tokenizer, "x").render(TURNS)
    assert 2024 < int(year) < 2200


def test_set_up_with_chatml_a_tokenizer_has_a_stop_that_is_not_its_padding(tmp_path: Path) -> None:
    plain = train_bpe(["the cat"], 259)
    made = set_up_chat(plain, "chatml", may_grow=True, where="base")
    assert made.added == ("<|im_start|>", "<|im_end|>")
    assert made.tokenizer.vocab_size == plain.vocab_size + 2
    assert made.tokenizer.special_tokens.eos == "<|im_end|>"
    assert made.tokenizer.ends == (plain.vocab_size + 1, plain.eos_id)
    assert made.tokenizer.pad_id not in (None, *made.tokenizer.ends)
    made.tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|pad|>")
    ids = theirs.apply_chat_template(TURNS)["input_ids"]
    assert ids == made.encode(TURNS).ids
    with refused("--template chatml", "<|im_start|>", "base"):
        set_up_chat(plain, "chatml", may_grow=False, where="base")


def test_without_a_name_the_own_template_or_chatml_or_zephyr(tokenizer: Tokenizer) -> None:
    assert set_up_chat(train_bpe(["the cat"], 259), None, may_grow=False, where="x").name == "zephyr"
    plain = train_bpe(["the cat"], 259)
    knows = plain.extended(TEMPLATES["chatml"], plain.special_tokens, None)
    assert set_up_chat(knows, None, may_grow=False, where="x").name == "chatml"
    mine = plain.extended((), plain.special_tokens, MINE)
    assert set_up_chat(mine, None, may_grow=False, where="x").source == MINE
    with refused("--template chatlm", "zephyr"):
        set_up_chat(plain, "chatlm", may_grow=True, where="x")


MINE = "{% for m in messages %}{{ m['role'] ~ m['content'] ~ eos_token }}{% endfor %}"


@pytest.mark.parametrize("may_grow", [True, False])
def test_padding_is_never_the_stop(may_grow: bool) -> None:
    plain = train_bpe(["the cat"], 259)

    bad = plain.extended((), replace(plain.special_tokens, bos="<|eos|>", pad="<|eos|>"), None)
    made = set_up_chat(bad, "zephyr", may_grow, "x")
    assert made.tokenizer.special_tokens.pad == "<|pad|>"
    assert made.tokenizer.pad_id != made.tokenizer.eos_id
