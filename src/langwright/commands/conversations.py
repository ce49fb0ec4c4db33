"""Conversations made ready for training."""

from langwright.base.console import format_amount, say, warn
from langwright.commands.supply import Sampler, Supply
from langwright.corpora.chats import Chat, open_chats
from langwright.data.chat import ChatBatches, Fitted, answer_bytes, evaluation_rows, fit_examples
from langwright.inference.generate import write
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.text.chat import prompt_ids
from langwright.text.equip import Equipped
from langwright.training.recipe import FinetuneRecipe

SPLIT = "5%"
"""What is held out of conversations unless told otherwise: one in twenty, by a hash of its content."""


def chat_supply(spec: str, recipe: FinetuneRecipe, equipped: Equipped, context: int) -> Supply:
    """The conversations of a file as training batches and held-out ones; what was cut off is told."""
    chats = open_chats(spec)
    split = recipe.split or SPLIT
    sides = chats.split(split)
    training, held_out = (fit_examples(side, equipped.template, equipped.tokenizer, context) for side in sides)
    _tell(spec, training, held_out, equipped)
    batches = ChatBatches(
        training.examples, context, recipe.batch_size, recipe.seed, packing=recipe.packing, fixed=recipe.compile
    )
    if recipe.packing:
        say(f"packed: {len(training.examples):,} conversations in {batches.windows:,} rows of {context} tokens")
    record = {
        **chats.record(),
        "spec": spec,
        "split": split,
        "template": equipped.name,
        "added_tokens": list(equipped.added),
        "training": training.record(),
        "held_out": held_out.record(),
    }
    return Supply(
        equipped.tokenizer,
        batches,
        lambda limit: evaluation_rows(held_out.examples, context, recipe.batch_size, limit),
        held_out.tokens,
        answer_bytes(held_out.examples, equipped.tokenizer),
        record,
        {"eos_token_id": list(equipped.ends) if len(equipped.ends) > 1 else equipped.ends[0]},
        _sampler(sides[1][0], equipped, context),
    )


def _sampler(chat: Chat, equipped: Equipped, context: int) -> Sampler:
    """Lets a model answer the first held-out conversation, for the live view."""
    asked = next(i for i, m in enumerate(chat.messages) if i >= chat.first and m["role"] == "assistant")
    ids = prompt_ids(equipped.template, equipped.tokenizer, chat.messages[:asked], chat.tools)[: context - 8]

    def sample(model: Model) -> str:
        limit = min(80, context - len(ids))
        return write(model, equipped.tokenizer, [ids], Sampling(0.8, top_k=50), limit, ends=equipped.ends)[0].text

    return sample


def _tell(spec: str, training: Fitted, held_out: Fitted, equipped: Equipped) -> None:
    added = f" (new tokens: {', '.join(equipped.added)})" if equipped.added else ""
    say(
        f"{spec}: template {equipped.name}{added}; {len(training.examples):,} conversations with "
        f"{format_amount(training.tokens, 'assistant tokens')} to train on, {len(held_out.examples):,} with "
        f"{format_amount(held_out.tokens, 'assistant tokens')} held out"
    )
    for side, fitted in (("to train on", training), ("held out", held_out)):
        if fitted.shortened:
            left_out = (
                f"; {len(fitted.unanswered):,} of them have no answer inside it and are left out, first "
                f"{fitted.unanswered[0]}"
                if fitted.unanswered
                else ""
            )
            warn(
                f"{fitted.shortened:,} conversations {side} are longer than the context and lost their ends, "
                f"{fitted.lost:,} tokens in all{left_out}"
            )
