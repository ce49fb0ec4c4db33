"""What an answer is worth: rules, Python functions, classifiers, and weighted sums of them.

A reward is written as one text, as `--reward` takes it:

    parses                          1 for an answer that is Python: it parses, alone or behind its prompt
    tests                           1 where that program passes the row's "tests", assertions or doctests, in a sandbox
    tests:3                         the same, within 3 seconds by the clock instead of 10
    regex:PATTERN                   1 for an answer in which the regular expression is found, within a second
    format:json                     1 for an answer that is JSON
    format:<think>...</think>...    1 for an answer of this form, where ... stands for any text
    length                          the number of the answer's tokens
    length:64-96                    0 up to 64 tokens, falling to -1 at 96 and beyond (DAPO's overlong penalty)
    answer                          1 where the final answer is that of the row's field "answer"
    FOLDER                          what a reward model says, with the policy's tokenizer
    FOLDER, FOLDER:LABEL            a classifier's log-odds of a label, of two the second; the number, if it gives one
    FOLDER:LABEL:probability        the probability of the label
    MODULE:FUNCTION                 reward(prompt: str, answer: str) -> float; a third one without default: the row
    0.7*FOLDER + 0.3*parses         a weighted sum; each term has its weight
"""

import hashlib
import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langwright.adaptation.folder import is_adapter
from langwright.alignment.reward_model import LABEL, RewardModel
from langwright.alignment.rules import check_of, has_form, is_found, is_json, overlong, program_of, same_answer
from langwright.base.console import say, warn
from langwright.base.errors import UserError, first_line, suggest
from langwright.base.files import read_object, sha256_file
from langwright.base.hub import PREFIX, model_folder
from langwright.corpora.preferences import Asked, Prompt
from langwright.data.labels import LabelExample, label_batch
from langwright.data.preferences import fitted
from langwright.models.folder import RECORD
from langwright.models.weights import weights_checksum
from langwright.pipelines.opening import Opening
from langwright.text.tokenizer import Tokenizer

BATCH = 32
"""Answers that a classifier reads in one forward pass."""


@dataclass(frozen=True)
class Answered:
    """An answer to a prompt.

    Args:
        prompt: the text that was answered; of a conversation, its last message.
        answer: the text of the answer, without what ends it.
        row: the fields of the prompt's row.
        where: the file and row of the prompt, for messages.
        asked: the prompt as its row has it, a text or a conversation, for reward models; `prompt` unless given.
        ended: whether the model ended the answer; else it was cut off at the most tokens.
    """

    prompt: str
    answer: str
    row: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    asked: Asked | None = None
    ended: bool = True


def answered(asked: Prompt, answer: str, ended: bool = True) -> Answered:
    """An answer to a prompt of a file; see `open_prompts`. ended: see `Answered`."""
    text = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[-1]["content"]
    return Answered(text, answer, asked.row, asked.source, asked.prompt, ended)


Reward = Callable[[Sequence[Answered]], list[float]]
"""What each answer of a batch is worth: one finite number each, whatever the others are."""


def open_reward(spec: str, tokenizer: Tokenizer) -> Reward:
    """The reward that a text describes; see the top of this file.

    Args:
        spec: the text.
        tokenizer: the policy's, whose tokens `length` counts.

    Raises:
        UserError: Here, naming the part that is no reward; or when it is called, naming the reward and the row of a
            value that is not a finite number, and what a function raised.
    """
    weights, parts = zip(*_terms(spec), strict=True)
    rewards = [_checked(part, _open(part, tokenizer)) for part in parts]

    def weighted(answers: Sequence[Answered]) -> list[float]:
        columns = [reward(answers) for reward in rewards]
        return [sum(map(mul, weights, values)) for values in zip(*columns, strict=True)]

    return weighted


def reward_contents(spec: str) -> str | None:
    """Identifies what a reward is read from besides its text: the weights of its folders, the sources of its modules.

    Returns:
        A SHA-256 in hexadecimal; None for rules alone.

    Raises:
        UserError: As for `open_reward`.
    """
    found = []
    for _, part in _terms(spec):
        if (folder := _folder_in(part)) is not None:
            path = Path(folder[0])
            found.append(weights_checksum(path if is_adapter(path) else model_folder(path)))
        elif part.partition(":")[0] not in RULES:
            source = getattr(_module(part), "__file__", None)
            found.append("" if source is None else sha256_file(Path(source)))
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if found else None


def _terms(spec: str) -> list[tuple[float, str]]:
    """The weights and rewards of a sum; a reward alone has the weight 1."""
    term = r"\s*([+-])\s*(\d*\.?\d+)\s*\*\s*"
    signed = spec if spec.startswith(("+", "-")) else f"+{spec}"
    if not re.match(term, signed):
        return [(1.0, spec)]
    _, *parts = re.split(term, signed)
    return [(float(sign + factor), part) for sign, factor, part in zip(*(parts[i::3] for i in range(3)), strict=True)]


def _checked(spec: str, reward: Reward) -> Reward:
    """The same reward, whose values are finite numbers."""

    def checked(answers: Sequence[Answered]) -> list[float]:
        return [_number(spec, one, value) for one, value in zip(answers, reward(answers), strict=True)]

    return checked


def _number(spec: str, one: Answered, value: Any) -> float:
    try:
        found = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"--reward {spec}: {_place(one)}: gave {value!r:.60} where a finite number is needed")
    return found


def _place(one: Answered) -> str:
    """Where an answer belongs, for messages."""
    return one.where or f"the prompt {one.prompt!r:.60}"


def _open(spec: str, tokenizer: Tokenizer) -> Reward:
    """One reward, without a weight."""
    name, _, rest = spec.partition(":")
    if name in RULES:
        return RULES[name](rest, tokenizer)
    if (found := _folder_in(spec)) is not None:
        return _folder(*found, tokenizer)
    if re.fullmatch(r"[\w.]+:[\w.]+", spec):
        return _each(_function(spec))
    raise UserError(
        f"--reward {spec}: no folder, no rule ({', '.join(RULES)}) and no MODULE:FUNCTION{suggest(name, RULES)}"
    )


def _folder_in(spec: str) -> tuple[str, list[str]] | None:
    """The folder that a reward without a weight begins with, and what follows it; None for other rewards."""
    parts = spec.split(":")
    for count in range(len(parts), 0, -1) if parts[0] not in RULES else ():
        folder = ":".join(parts[:count])
        if (folder and Path(folder).is_dir()) or (spec.startswith(PREFIX) and count == 2):
            return folder, parts[count:]
    return None


def _each(rule: Callable[[Answered], Any]) -> Reward:
    """The reward that looks at one answer after the other."""
    return lambda answers: [rule(one) for one in answers]


def _parses(rest: str, tokenizer: Tokenizer) -> Reward:
    _nothing_behind("parses", rest)
    return _each(lambda one: program_of(one.answer, one.prompt) is not None)


def _tests(rest: str, tokenizer: Tokenizer) -> Reward:
    if rest and (not re.fullmatch(r"\d*\.?\d+", rest) or not float(rest)):
        raise UserError(f"--reward tests:{rest}: must be tests:SECONDS that an answer may take, such as tests:3")
    from langwright.base.sandbox import Limits, run_python  # which needs modules of Unix

    limits = Limits(clock=float(rest)) if rest else Limits()

    def passes(one: Answered) -> bool:
        tests, program = _field(one, "tests"), program_of(one.answer, one.prompt)
        check = check_of("\n".join(tests) if isinstance(tests, list) else str(tests))
        return program is not None and run_python(program, check, limits).passed

    def reward(answers: Sequence[Answered]) -> list[float]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(passes, answers))

    return reward


def _regex(rest: str, tokenizer: Tokenizer) -> Reward:
    try:
        pattern = re.compile(rest)
    except re.error as error:
        raise UserError(f"--reward regex:{rest}: not a regular expression: {error}") from None

    def rule(one: Answered) -> bool:
        try:
            return is_found(pattern, one.answer)
        except TimeoutError:
            _warn_slow(rest)
            return False

    return _each(rule)


def _format(rest: str, tokenizer: Tokenizer) -> Reward:
    if rest == "json":
        return _each(lambda one: is_json(one.answer))
    if "..." not in rest:
        raise UserError(f'--reward format:{rest}: must be "json", or a form in which ... stands for any text')
    return _each(lambda one: has_form(one.answer, rest))


def _length(rest: str, tokenizer: Tokenizer) -> Reward:
    if not rest:
        return _each(lambda one: len(tokenizer.encode(one.answer)))
    bounds = re.fullmatch(r"(\d+)-(\d+)", rest)
    soft, limit = (0, 0) if bounds is None else map(int, bounds.groups())
    if soft >= limit:
        raise UserError(f"--reward length:{rest}: must be FROM-TO in tokens, FROM below TO, such as length:64-96")
    return _each(lambda one: overlong(len(tokenizer.encode(one.answer)), soft, limit))


def _answer(rest: str, tokenizer: Tokenizer) -> Reward:
    _nothing_behind("answer", rest)
    return _each(lambda one: same_answer(one.answer, str(_field(one, "answer"))))


def _nothing_behind(name: str, rest: str) -> None:
    if rest:
        raise UserError(f'--reward {name}:{rest}: nothing follows "{name}"')


def _field(one: Answered, name: str) -> Any:
    """What the row of a prompt says; UserError where it says nothing."""
    if (value := one.row.get(name)) is None:
        raise UserError(f'--reward {name}: {_place(one)}: the row has no field "{name}"')
    return value


RULES: Mapping[str, Callable[[str, Tokenizer], Reward]] = {
    "parses": _parses,
    "tests": _tests,
    "regex": _regex,
    "format": _format,
    "length": _length,
    "answer": _answer,
}
"""Rewards by rule: name -> what follows the colon and the policy's tokenizer -> reward."""


def _module(spec: str) -> Any:
    """The module of a Python function; modules are looked for in the current folder first."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(spec.partition(":")[0])
    except (Exception, SystemExit) as error:  # a module runs when it is imported, and may raise anything
        raise UserError(f"--reward {spec}: {type(error).__name__}: {first_line(error)}") from None


def _function(spec: str) -> Callable[[Answered], Any]:
    """A Python function, by module and name."""
    name, found = spec.partition(":")[2], _module(spec)
    try:
        for part in name.split("."):
            found = getattr(found, part)
        signature = inspect.signature(found)
    except Exception as error:
        raise UserError(f"--reward {spec}: {type(error).__name__}: {first_line(error)}") from None
    wanted = next((count for count in (2, 3) if _takes(signature, count)), None)
    if wanted is None:
        raise UserError(f"--reward {spec}: takes {signature}; needed is {name}(prompt: str, answer: str)")

    def rule(one: Answered) -> Any:
        try:
            return found(one.prompt, one.answer, *((one.row,) if wanted == 3 else ()))
        except (Exception, SystemExit) as error:
            raise UserError(f"--reward {spec}: {_place(one)}: {type(error).__name__}: {first_line(error)}") from error

    return rule


def _takes(signature: inspect.Signature, count: int) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _folder(folder: str, chosen: Sequence[str], policy: Tokenizer) -> Reward:
    """A reward model, or a classifier."""
    told = read_object(Path(folder) / RECORD, "the record of the model", optional=True).get("task") or {}
    if told.get("name") != LABEL:
        return _classifier(folder, chosen, policy)
    if chosen:
        raise UserError(f"--reward {':'.join([folder, *chosen])}: a reward model has no labels; leave them out")
    model = RewardModel.open(*_base(folder), policy=policy)
    context = model.model.window

    def score(answers: Sequence[Answered]) -> list[float]:
        examples = []
        for one in answers:
            where, asked = f"--reward {folder}: {_place(one)}", one.asked or one.prompt
            examples.append(fitted(model.form, asked, one.answer, context, ended=one.ended, source=where))
        if any(example.cut for example in examples):
            _warn_cut(folder, context)
        return model.rewards_of(examples)

    return score


def _base(folder: str) -> tuple[Path, Opening]:
    """The folder of a model and how it is opened: an adapter on the base that its record names."""
    path = Path(folder)
    record = read_object(path / RECORD, "the record of the model", optional=True)
    if not is_adapter(path) or not isinstance(base := record.get("base_folder"), str):
        return path, Opening(dtype="auto")
    hub = f"@{record['base_revision']}" if "base_revision" in record else ""
    return Path(base.partition("@")[0] + hub if hub else base), Opening(dtype="auto", adapter=path)


def _classifier(folder: str, chosen: Sequence[str], policy: Tokenizer) -> Reward:
    """A classifier, which reads prompt and answer as one text, or as a pair where it learnt from pairs.

    chosen: the label, and "probability".
    """
    base, opening = _base(folder)
    model, tokenizer = opening.open(base)
    told = read_object(Path(folder) / RECORD, "the record of the model", optional=True).get("task") or {}
    form, pair = told.get("form", "one"), (told.get("columns") or {}).get("second_field") is not None
    if model.task != "sequence":
        raise UserError(f'--reward {folder}: a model with the head "{model.task}" says nothing of a whole answer')
    number = form == "number" or len(model.labels) == 1
    column = 0 if number and not chosen else _column(folder, chosen, model.labels, "" if form == "several" else "one")
    if tokenizer.fingerprint() != policy.fingerprint():
        say(f"--reward {folder}: its tokenizer is not the policy's; answers are encoded anew from their text")

    def example(one: Answered) -> LabelExample:
        text, second = (one.prompt, one.answer) if pair else (one.prompt + one.answer, None)
        ids, types = tokenizer.frame(text, second, limit=model.context)
        if len(ids) == model.context:
            _warn_cut(folder, len(ids))
        return LabelExample(np.array(ids), np.array(0), np.array(1.0, np.float32), np.array(types))

    @torch.inference_mode()
    def score(answers: Sequence[Answered]) -> list[float]:
        values: list[float] = []
        for start in range(0, len(answers), BATCH):
            rows = [[example(one)] for one in answers[start : start + BATCH]]
            batch = label_batch(rows, np.arange(len(rows)), lambda width: width).to(model.device)
            logits = batch.logits(model).float()
            odds = logits[:, column]
            if not number and form == "one":  # log p - log(1 - p)
                odds = odds - logits.index_fill(1, torch.tensor([column], device=odds.device), -math.inf).logsumexp(1)
            values += (odds.sigmoid() if len(chosen) > 1 else odds).tolist()
        return values

    return score


def _column(folder: str, chosen: Sequence[str], labels: Sequence[str], form: str) -> int:
    """The logit that is meant; UserError where that is not said, or not known."""
    name = chosen[0] if chosen else labels[-1] if len(labels) == 2 and form == "one" else None
    if name not in labels or list(chosen[1:]) not in ([], ["probability"]):
        near = suggest(name or "", labels)
        raise UserError(
            f"--reward {':'.join([folder, *chosen])}: must be FOLDER:LABEL or FOLDER:LABEL:probability, "
            f"the label one of {', '.join(labels)}{near}"
        )
    return labels.index(name)


@cache
def _warn_slow(pattern: str) -> None:
    warn(f"--reward regex:{pattern}: answers in which it is not found within a second are worth 0")


@cache
def _warn_cut(folder: str, context: int) -> None:
    warn(f"--reward {folder}: answers of more than {context} tokens with their prompts are cut at the end")
