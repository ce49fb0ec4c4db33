"""langwright compare: the answers of two models to the same prompts."""

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

from langwright.alignment.comparing import compared, kl_of, scored, write_answers
from langwright.alignment.rewards import open_reward
from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import refuse_file, write_atomic, write_json
from langwright.corpora.preferences import open_prompts
from langwright.data.preferences import AnswerFormat, Continuing, Conversing
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.pipelines.opening import Opening
from langwright.text.chat_template import own_template
from langwright.text.tokenizer import Tokenizer


def compare(
    model: Path,
    base: Path,
    prompts: str,
    *,
    reward: tuple[str, ...] = (),
    out: Path | None = None,
    max_new_tokens: int | None = None,
    sampling: Sampling = Sampling(),
    stop: tuple[str, ...] = (),
    limit: int | None = None,
    opening: Opening = Opening(),
    json: bool = False,
) -> None:
    """How often the answers of a model are worth more than those of another, to the same prompts.

    The interval is that of a bootstrap over the prompts. For the opinion of people, give the files of --out to
    `langwright label`, which shows both answers without their models.

    Args:
        model: a model folder, or a model of the Hub.
        base: the one to compare it with; with --adapter, which is put on the first, it may be the same.
        prompts: rows with a prompt, a text or a conversation, .jsonl, .json, .csv or .parquet.
        reward: what an answer is worth, as for align: FOLDER of a reward model or FOLDER:LABEL of a classifier,
            module:function, parses, tests, answer, regex:..., format:..., length, or a weighted sum; several may be
            given, such as the reward that a model was trained with and one that it never saw.
        out: a folder for the answers of both, model.jsonl and base.jsonl, side by side, and for the result.
        max_new_tokens: the most tokens of an answer; what the context has room for, at most 256, unless given.
        sampling: how answers are drawn.
        stop: a string that ends an answer.
        limit: only the first so many prompts.
        opening: how the models are opened.
        json: print the result as JSON.
    """
    check_flag("limit", limit, limit is None or limit >= 1, "at least 1")
    if not reward and out is None:
        raise UserError("give --reward, which says what answers are worth, or --out, a folder for the answers, or both")
    if out is not None:
        refuse_file(out)
    items = list(open_prompts(prompts).items)[:limit]
    chats = any(not isinstance(item.prompt, str) for item in items)
    asked = Request("", sampling, max_new_tokens, stop, logprobs=0)
    first, words = opening.open(model, generates=True, one_stack=True)
    second, others = replace(opening, adapter=None).open(base, generates=True, one_stack=True)
    rewards = {spec: open_reward(spec, words) for spec in reward}
    forms = _form(words, chats, opening.adapter or model), _form(others, chats, base)
    ours, theirs = (write_answers(each, form, items, asked) for each, form in zip((first, second), forms, strict=True))
    values = {spec: (scored(each, items, ours), scored(each, items, theirs)) for spec, each in rewards.items()}
    same = sampling == Sampling(seed=sampling.seed) and words.fingerprint() == others.fingerprint()
    result: dict[str, Any] = {
        "prompts": len(items),
        "rewards": {spec: compared(*both, seed=sampling.seed) for spec, both in values.items()},
        "kl": kl_of(second, forms[0], items, ours) if same else None,
        "tokens": [sum(len(answer.ids) for answer in answers) / len(items) for answers in (ours, theirs)],
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, answers, side in (("model", ours, 0), ("base", theirs, 1)):
            told = []
            for n, (item, answer) in enumerate(zip(items, answers, strict=True)):
                worth = {spec: both[side][n] for spec, both in values.items()}
                told.append(dumps({"prompt": item.prompt, **answer.row(), "rewards": worth}, ensure_ascii=False))
            write_atomic(out / f"{name}.jsonl", "".join(line + "\n" for line in told))
        write_json(out / "comparison.json", result)
        say(f"wrote {out} (langwright label model={out / 'model.jsonl'},base={out / 'base.jsonl'} OUT)")
    if json:
        print_json(result)
        return
    for spec, found in result["rewards"].items():
        often = "preferred in {:.1%} ({:.1%} to {:.1%})".format(found["win_rate"], *found["win_interval"])
        gap = "{:+.3f} ({:+.3f} to {:+.3f})".format(found["difference"], *found["difference_interval"])
        means = "{:.3f} and {:.3f}".format(*found["means"])
        print(f"{spec}: {often} of {len(items):,} prompts; mean {means}, difference {gap}")
    apart = "" if result["kl"] is None else f"; KL {result['kl']:.3f} nats an answer"
    print("tokens an answer: {:.1f} and {:.1f}".format(*result["tokens"]) + apart)


def _form(tokenizer: Tokenizer, chats: bool, folder: Path) -> AnswerFormat:
    """How a model reads prompts: in its template, or as texts that it goes on with."""
    template = own_template(tokenizer, str(folder))
    if template is None and chats:
        raise UserError(f"{folder}: has no chat template, and the prompts are conversations; finetune --task chat")
    return Continuing(tokenizer) if template is None else Conversing(template)
