"""Best of n: many answers to each prompt, of which the best are kept. Nothing is learnt here.

What is left is a folder of files that other commands take: `finetune` the best answers (again and again that is
`--method expert-iteration`), `align --method dpo` the best against the worst.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from langwright.alignment.keeping import Keeping
from langwright.alignment.recipe import AlignRecipe, AnswerSettings
from langwright.alignment.rewards import Reward, answered, open_reward, reward_contents
from langwright.alignment.setup import Setup
from langwright.base.errors import UserError
from langwright.base.files import read_object, write_atomic, write_json
from langwright.corpora.preferences import Preferences, Prompt, open_prompts
from langwright.corpora.reading import read_rows
from langwright.data.preferences import AnswerFormat
from langwright.inference.generate import BATCH
from langwright.inference.request import Completion, Request
from langwright.inference.sampling import Sampling
from langwright.models.folder import RECORD as MODEL_RECORD
from langwright.models.model import Model
from langwright.pipelines.prompt_file import write_rows

Row = dict[str, Any]
USED = ("method", "template", "skip", "context", "bits", "seed", "device", "dtype", "exact")
"""The settings that matter here beside those of answers: nothing is trained."""
SAMPLES, BEST, PAIRS, RECORD = "samples.jsonl", "best.jsonl", "pairs.jsonl", "best_of_n.json"


def write_best(setup: Setup) -> Row:
    """What `langwright align --method best-of-n` does; see `best_of_n`."""
    recipe, known = setup.recipe, {*USED, *(one.name for kind in (AnswerSettings, Keeping) for one in fields(kind))}
    for one in fields(AlignRecipe):
        value: Any = getattr(recipe, one.name)
        if one.name not in known and value != one.default:
            flag = f"--{one.name.replace('_', '-')} {value}"
            raise UserError(f"{flag}: --method best-of-n trains nothing; leave it out, or take expert-iteration")
    if recipe.reward is None:
        raise UserError("--reward: --method best-of-n needs one: a folder, module:function, parses, regex:...")
    setup.open_policy()
    prompts = open_prompts(setup.data, recipe.skip)
    fitting = setup.choose_format(prompts.items)
    items = [item for item in prompts.items if fitting.prompt_ids(item.prompt, item.source) is not None]
    fitting.tell(prompts.spec)
    model = setup.base().to(setup.machine.device, setup.machine.dtype).eval()
    sampling = Sampling(temperature=recipe.temperature, seed=recipe.seed)
    reward = open_reward(recipe.reward, setup.form.tokenizer)
    gold = None if recipe.gold is None else open_reward(recipe.gold, setup.form.tokenizer)
    settings = {
        "model": setup.begin.identity, "reward": recipe.reward, "reward_contents": reward_contents(recipe.reward),
        "dtype": str(setup.machine.dtype), "bits": recipe.bits, "template": recipe.template, "context": recipe.context,
        "gold": recipe.gold, "gold_contents": None if recipe.gold is None else reward_contents(recipe.gold),
    }  # fmt: skip
    return best_of_n(
        model, setup.form, Preferences(prompts.spec, items), setup.out, reward,
        Request("", sampling, recipe.max_new_tokens, n=recipe.group), keeping=Keeping(recipe.share, recipe.threshold),
        settings=settings, gold=gold,
    )  # fmt: skip


def kl_bound(n: int) -> float:
    """The most by which the best of n answers is away from the model that wrote them, as KL in nats an answer.

    Source: Stiennon et al. (2020); that it is a bound: Beirami et al. (2024).
    """
    return math.log(n) - (n - 1) / n


def expected_best(rewards: Sequence[float], k: int, worth: Sequence[float] | None = None) -> float:
    """The mean of the best of k of these rewards, over all choices of k of them.

    Source: Nakano et al., WebGPT (2021), appendix I.

    Args:
        rewards: of the answers, by which the best is chosen; of equal ones, each as often.
        k: how many.
        worth: what each answer is worth by another reward, of which the mean is asked in place of the first.
    """
    _, places, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    means = np.bincount(places, rewards if worth is None else worth) / counts
    ways = [math.comb(int(below), k) for below in counts.cumsum()]
    return float(sum((up - to) / ways[-1] * mean for to, up, mean in zip([0, *ways[:-1]], ways, means, strict=True)))


def best_of_n(
    model: Model,
    form: AnswerFormat,
    prompts: Preferences,
    out: Path,
    reward: Reward,
    asked: Request,
    *,
    keeping: Keeping,
    settings: Mapping[str, Any] = {},
    gold: Reward | None = None,
) -> Row:
    """Write n answers to each prompt, score them, and leave the files. What is written is not written again.

    Args:
        model: who answers.
        form: how a prompt becomes tokens.
        prompts: see `open_prompts`.
        out: the folder.
        reward: what an answer is worth.
        asked: how each prompt is answered: `n`, `sampling`, `max_new_tokens`, `stop`.
        keeping: which answers are kept.
        settings: what else decides the answers, by name.
        gold: a second reward, which is measured alone.

    Returns:
        What `best_of_n.json` says: `n`, `prompts`, `kept`, `reward` of all answers and of those that are `kept_reward`,
        and `curve`: for 1, 2, 4 ... n answers `reward`, the mean of the best of so many, and `kl`, its bound. With a
        second reward, `gold` of all answers, its `gold_deviation`, and in `curve` the `gold` of the best by the first.
    """
    items: Sequence[Prompt] = prompts.items

    def row(number: int, completions: Sequence[Completion]) -> Row:
        item, texts = items[number], [completion.text for completion in completions]
        if error := next((completion.error for completion in completions if completion.error), None):
            raise UserError(f"{item.source}: the model writes no answer: {error}")
        ended = [completion.reason != "length" for completion in completions]
        said = [answered(item, *one) for one in zip(texts, ended, strict=True)]
        found = {"prompt": item.prompt, "samples": texts, "rewards": reward(said), "ended": ended}
        return found if gold is None else {**found, "gold": gold(said)}

    content = hashlib.sha256(json.dumps([item.content for item in items]).encode()).hexdigest()
    drawn = {**vars(asked.sampling), "n": asked.n, "max_new_tokens": asked.max_new_tokens, "stop": list(asked.stop)}
    settings = {"prompts": content, **settings, **drawn}
    _check_begun(out, settings, prompts.spec)
    if (out / SAMPLES).exists():
        rows = [dict(found.values) for found in read_rows(out / SAMPLES, None)]
    else:
        requests = [_request(asked, form, item, number) for number, item in enumerate(items)]
        rows = write_rows(
            model, form.tokenizer, requests, [item.source for item in items], out / SAMPLES, settings, row,
            spec=prompts.spec, batch=max(BATCH, asked.n),
        )  # fmt: skip
    return _leave(rows, out, keeping, settings)


def _check_begun(out: Path, settings: Row, spec: str) -> None:
    """Write down what decides the answers; UserError where others were begun in this folder."""
    begun = read_object(out / RECORD, "the record of best of n", optional=True).get("settings", settings)
    if (out / MODEL_RECORD).exists() or not isinstance(begun, dict):
        raise UserError(f"{out}: holds something else; choose another folder")
    changed = next((name for name in {**begun, **settings} if begun.get(name) != settings.get(name)), None)
    if changed == "prompts":
        raise UserError(f"{spec}: has changed since {out} was begun; restore it, or choose another folder")
    if changed:
        told = f"{changed} was {begun.get(changed)!r} and now is {settings.get(changed)!r}"
        raise UserError(f"{out}: was begun otherwise: {told}; choose another folder")
    if not (out / RECORD).exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RECORD, {"settings": settings})


def _request(asked: Request, form: AnswerFormat, item: Prompt, number: int) -> Request:
    """The request of a prompt, whose draws are those of no other."""
    key = f"langwright best of n 1:{asked.sampling.seed}:{number}"
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "little")
    return replace(asked, prompt=form.prompt_ids(item.prompt), sampling=replace(asked.sampling, seed=seed))


def _leave(rows: Sequence[Row], out: Path, keeping: Keeping, settings: Row) -> Row:
    """Write what is kept, pairs of best and worst, and the record."""
    rewards = [row["rewards"] for row in rows]
    chosen = keeping.choose(rewards)
    kept = {(at, rows[at]["samples"][number]): rewards[at][number] for at, number in reversed(chosen)}
    best = [_kept(rows[at]["prompt"], text, value) for (at, text), value in reversed(kept.items()) if text.strip()]
    pairs = []
    for row, values in zip(rows, rewards, strict=True):
        high, low = (row["samples"][at] for at in (int(np.argmax(values)), int(np.argmin(values))))
        if max(values) > min(values) and high.strip() and low.strip():
            pairs.append({"prompt": row["prompt"], "chosen": high, "rejected": low})
    n = len(rewards[0])
    measured = {"reward": rewards, **({"gold": [row["gold"] for row in rows]} if "gold" in rows[0] else {})}

    def point(k: int) -> Row:
        means = {
            name: float(np.mean([expected_best(values, k, worth) for values, worth in zip(rewards, each, strict=True)]))
            for name, each in measured.items()
        }
        return {"n": k, "kl": kl_bound(k), **means}

    curve = [point(k) for k in sorted({*(2**i for i in range(n.bit_length())), n})]
    for name, lines in ((BEST, best), (PAIRS, pairs)):
        write_atomic(out / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    record = {
        "n": n, "prompts": len(rows), "kept": len(best), "pairs": len(pairs),
        **{name: float(np.mean(each)) for name, each in measured.items()}, "deviation": float(np.std(rewards)),
        **({"gold_deviation": float(np.std(measured["gold"]))} if "gold" in measured else {}),
        "kept_reward": float(np.mean([line["reward"] for line in best])) if best else None,
        "curve": curve, "settings": settings,
    }  # fmt: skip
    write_json(out / RECORD, record)
    return record


def _kept(prompt: Any, text: str, reward: float) -> Row:
    """A row that `finetune` takes: with --task chat, or of a text that is gone on with, with --task text."""
    row = {"prompt": prompt, "completion": text, "reward": reward}
    return {**row, "text": prompt + text} if isinstance(prompt, str) else row
