"""The settings of a training run: typed, without torch, equal in Python, YAML and flags."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from langwright.base.errors import UserError
from langwright.base.quantities import Quantity, Unit, parse_quantity


@dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained. Amounts carry their unit: "500 steps", "2 epochs", "1m tokens".

    Args:
        steps: length of the run: "500 steps", "2 epochs" or "1m tokens"; unless given
            one epoch, or three in fine-tuning.
        budget: length of the whole command in time instead, such as "10m"; it ends decayed and on time. "none" lifts
            the budget of a recipe file.
        batch_size: sequences in a step.
        micro_batch: sequences in one forward pass, where a whole step does not fit the memory.
        optimizer: adamw for all parameters, muon for the matrices of the body and adamw for the rest, or sgd, which has
            no momentum and no weight decay.
        optimizer_bits: bits of each of AdamW's averages; 8 takes a quarter of the memory of 32.
        optimizer_host: keep AdamW's averages in the machine's memory instead of the device's.
        checkpoint: keep only what goes into each block, and compute the block again on the way back; less memory, and
            the same gradients.
        learning_rate: peak learning rate of AdamW, 1 / width unless given, a fifth of that for bert, bart and marian, a
            quarter for t5, a tenth to fine-tune a model that exists; or of SGD, 1 unless given.
        muon_learning_rate: peak learning rate of Muon.
        embedding_learning_rate: peak for the token and position tables; that of AdamW unless given.
        head_learning_rate: peak for a head that is not tied to the token table; that of AdamW unless given.
        schedule: the decay after warm-up: linear or cosine from the peak, trapezoid (flat, then linear), or halving
            (flat, then halved again and again).
        warmup: share of the steps in which the learning rate rises linearly to its peak.
        decay: share of the steps in which trapezoid and halving fall.
        halvings: how often the learning rate is halved in that share, the first time at its beginning.
        final: the learning rate at the end, as a share of the peak.
        weight_decay: decoupled weight decay of matrices; biases and norms have none.
        beta1: decay of AdamW's average of gradients.
        beta2: decay of AdamW's average of squared gradients.
        clip: largest norm of the gradient; 0 for no clipping.
        z_loss: weight of the squared log of the softmax's denominator in the loss.
        dtype: float32, or bfloat16 with float32 masters; auto is, once for a run, the faster here.
        device: cpu, cuda, mps, or auto for the best at hand.
        compile: compile each block with torch.compile.
        parallel: ddp lets the processes that torchrun started share each batch.
        exact: a resumed run is bit-identical to an undisturbed one (with --compile: deterministic kernels).
        seed: of the parameters, the order of samples and dropout.
        save_every: how often a checkpoint is written; one is always written at the end and on a signal.
        evaluate_every: how often the validation loss is measured; always at the end.
        validation_windows: windows measured then; the whole held-out text is measured at the end.
        sample_every: how often a sample of the model's writing is shown; "0 steps" for never.
        log_every: how often a line of metrics is written.
        keep: how many checkpoints are kept.
    """

    steps: str | None = None
    budget: str | None = None
    batch_size: int = 16
    micro_batch: int | None = None
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    optimizer_bits: Literal[32, 8] = 32
    optimizer_host: bool = False
    checkpoint: bool = False
    learning_rate: float | None = None
    muon_learning_rate: float = 0.02
    embedding_learning_rate: float | None = None
    head_learning_rate: float | None = None
    schedule: Literal["linear", "cosine", "trapezoid", "halving"] = "trapezoid"
    warmup: float = 0.02
    decay: float = 0.6
    halvings: int = 8
    final: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    z_loss: float = 0.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    compile: bool = False
    parallel: Literal["none", "ddp"] = "none"
    exact: bool = True
    seed: int = 0
    save_every: str = "200 steps"
    evaluate_every: str = "200 steps"
    validation_windows: int = 128
    sample_every: str = "200 steps"
    log_every: str = "10 steps"
    keep: int = 2
    usual_steps: ClassVar[str] = "1 epochs"

    def __post_init__(self) -> None:
        for names, holds, wanted in _LIMITS:
            for name in names.split():
                value = getattr(self, name, None)
                if value is not None and not holds(value):
                    raise UserError(f"{_flag(name)} {value}: must be {wanted}")
        if self.schedule in ("trapezoid", "halving") and self.warmup + self.decay > 1:
            raise UserError(f"--decay {self.decay}: must be at most 1 - warmup")
        self.length()
        for name in ("save_every", "evaluate_every", "sample_every", "log_every"):
            self.every(name)
        if self.budget_seconds() is not None and self.steps is not None:
            raise UserError("--steps and --budget exclude each other; --budget none lifts the budget of a recipe")

    def length(self) -> Quantity:
        """How long the run is, in steps, epochs or tokens."""
        return _amount("steps", self.usual_steps if self.steps is None else self.steps, "steps", "epochs", "tokens")

    def budget_seconds(self) -> float | None:
        """The time for the whole command in seconds, or None."""
        return None if self.budget in (None, "none") else float(_amount("budget", self.budget, "seconds").value)

    def every(self, name: str) -> int:
        """The number of steps in one of the fields called `..._every`."""
        return int(_amount(name, getattr(self, name), "steps").value)


FREE = ("save_every", "evaluate_every", "validation_windows", "sample_every", "log_every", "keep", "parallel")
"""Fields that a run may change when it is continued: none of them touches the weights by more than rounding."""


@dataclass(frozen=True)
class NewModelRecipe:
    """The shape of a new model, and its tokenizer.

    Args:
        tokenizer: bpe, words, characters, bytes, or a folder that holds a tokenizer.
        vocabulary: size of the vocabulary of a new tokenizer of bpe or words.
        depth: the one dial of size: layers; the width is 64 times as much.
        width: another width, a multiple of 64.
        dropout: share of activations dropped in training.
        weight_dropout: share of the weights between hidden states dropped in training, in recurrent families.
        balance: weight of the loss that gives experts the same work, in families that have experts (mixtral).
    """

    tokenizer: str | None = None
    vocabulary: int = 4096
    depth: int = 4
    width: int | None = None
    dropout: float = 0.0
    weight_dropout: float | None = None
    balance: float | None = None


@dataclass(frozen=True)
class PretrainRecipe(NewModelRecipe, TrainingRecipe):
    """How a model is made from raw text.

    Args:
        objective: causal (each token predicts the next), prefix (an encoder reads the beginning, a decoder writes the
            rest), masked (hidden tokens are predicted: BERT), span (hidden spans are written: T5), denoise (a text is
            written from a noisy one: BART), or seq2seq (a target is written from its source; CORPUS is two files of
            parallel lines, such as train.en::train.de).
        noise: share of the tokens that masked, span and denoise take; 0.15, and 0.3 for denoise, unless given.
        mean_span: tokens of a span on average; 3 for span and 3.5 for denoise unless given.
        whole_words: masked hides whole words.
        next_sentence: masked texts are pairs, of which the model also says whether they belong together, as BERT did.
        permute: denoise lets sentences change places.
        delete: share of the tokens that denoise leaves out.
        rotate: share of the texts that denoise lets begin at another token.
        smoothing: share of each target that is spread over the vocabulary in the loss.
        packing: several short texts share a row, none of which sees another.
        mix: how much of each corpus is drawn, where CORPUS names several, such as "web=0.7,code=0.3", and from which
            token on that changes: "web=0.7,code=0.3; 1m tokens: web=0.2,code=0.8"; by their sizes unless given.
        split: "5%" holds out 5 percent of the documents by content; 0.9 trains on the first 90 percent of the text.
        field: the field or column that holds the text, in corpora that have several.
        crossing: cut windows across documents instead of inside them.
        family: the architecture, a name in docs/add-a-family.md: gpt2, gpt_neox, gemma2, mixtral, bloom, roberta ...;
            llama, or what the objective was made for (bert, t5, bart, marian), unless given.
        preset: a named shape instead of family and depth, such as gpt2-medium.
        context: tokens in a window, and the longest text the model can read.
    """

    objective: Literal["causal", "prefix", "masked", "span", "denoise", "seq2seq"] = "causal"
    noise: float | None = None
    mean_span: float | None = None
    whole_words: bool = False
    next_sentence: bool = False
    permute: bool = True
    delete: float = 0.0
    rotate: float = 0.0
    smoothing: float = 0.0
    packing: bool = False
    mix: str | None = None
    split: str = "5%"
    field: str = "text"
    crossing: bool = False
    tokenizer: str | None = "bpe"
    family: str | None = None
    preset: str | None = None
    context: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = {f.name: f.default for f in fields(self)}
        for objectives, names in _GO_WITH.items():
            for name in names:
                if getattr(self, name) != usual[name] and self.objective not in objectives.split():
                    raise UserError(f"{_flag(name)}: goes with --objective {objectives.replace(' ', ' or ')}")
        if self.noise == 0 and self.objective != "denoise":
            raise UserError(f"--noise 0: leaves --objective {self.objective} nothing to learn")
        for name in ("crossing", "next_sentence"):
            if getattr(self, name) and self.packing:
                raise UserError(f"{_flag(name)} and --packing exclude each other")
        if self.next_sentence and self.context < 8:
            raise UserError(f"--next-sentence: a context of {self.context} tokens has no room for two texts")


_GO_WITH = {
    "masked span denoise": ("noise",),
    "span denoise": ("mean_span",),
    "masked": ("whole_words", "next_sentence"),
    "denoise": ("permute", "delete", "rotate"),
    "causal": ("crossing",),
    "causal prefix masked span denoise": ("mix", "field"),
}
"""Fields that mean something for some objectives only."""


@dataclass(frozen=True)
class FinetuneRecipe(NewModelRecipe, TrainingRecipe):
    """How a model goes on learning from new text or conversations, for three epochs by default.

    The shape is that of a new model (new:FAMILY), whose tokenizer is made from the rows that it learns.

    Args:
        task: text (go on predicting every token), chat (learn the assistant's words of conversations), classify (one
            label, several, or a number for a text or a pair), tokens (a tag for every word), qa (the part of a text
            that answers a question), translate or summarise (write a target from a source), similarity (how alike two
            texts are), choice (which of several texts answers a question), or series (a label for windows of recordings
            of several channels).
        validation: a file of rows that the task is measured on, in place of a share of the others.
        text_field: the column of the text, or of the source; guessed, and announced, unless given. A number where
            there is no header.
        second_field: the column of the second text, for pairs, or of the choices.
        label_field: the column of the label, or of the target.
        group_field: the column of the subject, for series; whole subjects are held out.
        smoothing: share of each label that is spread over all of them in the loss.
        augment: changes of the texts that classify learns from, between commas: synonyms, deletion, swap, typos; in
            each epoch a row has one of them, or none.
        temperature: what cosines are divided by where similarity is learnt from pairs without scores; 0.05 unless
            given.
        patience: end when so many evaluations in a row brought nothing better; the best weights are kept.
        template: how conversations are written: chatml, zephyr, alpaca, llama2, llama3, or a file with a Jinja
            template; the model's own unless given, else chatml if its special tokens are known, else zephyr.
        packing: let several conversations share a row; none sees another.
        split: "5%" holds out 5 percent of the documents or conversations by content; 0.9 trains on the first 90
            percent. By default text is split at 0.9, conversations at 5%, rows at 10%, and series at 25% of the
            subjects, who may be named too.
        field: the field or column that holds the text, in corpora that have several.
        crossing: cut windows across documents instead of inside them.
        context: tokens in a window; the model's own context unless given, 256 for a new one; samples of a series, 128.
        tokenizer: of a new model: bpe, words, characters, bytes, or a folder that holds one; words for recurrent and
            convolutional families, bpe for the others, unless given.
        old_text: a corpus to measure forgetting on; the held-out part of what the model was trained on, unless given.
        bits: quantise the linear layers of the model to int8, int4, int3, nf4 or fp4 on loading, to train an adapter
            over them (QLoRA).
        unfreeze_every: with full tuning, begin with the last layer and let one more below join each time, such as
            "100 steps".
    """

    schedule: Literal["linear", "cosine", "trapezoid", "halving"] = "linear"
    batch_size: int = 8
    task: Literal[
        "text", "chat", "classify", "tokens", "qa", "translate", "summarise", "similarity", "choice", "series"
    ] = "text"
    validation: str | None = None
    text_field: str | None = None
    second_field: str | None = None
    label_field: str | None = None
    group_field: str | None = None
    smoothing: float = 0.0
    augment: str | None = None
    temperature: float | None = None
    patience: int | None = None
    template: str | None = None
    packing: bool = False
    split: str | None = None
    field: str = "text"
    crossing: bool = False
    context: int | None = None
    old_text: str | None = None
    method: str = "full"
    bits: Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4"] | None = None
    unfreeze_every: str | None = None
    usual_steps: ClassVar[str] = "3 epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unfreeze_every is not None:
            if self.method != "full":
                raise UserError(f"--unfreeze-every goes with --method full, not with {self.method}")
            self.every("unfreeze_every")
        if self.optimizer == "muon" and self.method != "full":
            raise UserError("--optimizer muon: is for the matrices of a whole model; adapters take adamw")
        for name, value in (("template", self.template), ("packing", self.packing)):
            if value and self.task != "chat":
                raise UserError(f"--{name}: goes with --task chat")
        if self.task != "text" and (self.crossing or self.field != "text"):
            raise UserError("--crossing and --field are for --task text")
        if self.task in ("text", "chat"):
            for name in ("validation", "text_field", "second_field", "label_field", "smoothing", "patience"):
                if getattr(self, name):
                    raise UserError(f"{_flag(name)}: goes with --task classify and the like, not with {self.task}")
        elif self.old_text is not None:
            raise UserError("--old-text: forgetting is measured with --task text or chat")
        if self.augment is not None and self.task != "classify":
            raise UserError("--augment: goes with --task classify")
        if self.group_field is not None and self.task != "series":
            raise UserError("--group-field: goes with --task series")
        if self.temperature is not None and self.task != "similarity":
            raise UserError("--temperature: goes with --task similarity")
        if self.patience is not None and self.parallel != "none":
            raise UserError("--patience: is for a run of one process")


_LIMITS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("patience batch_size micro_batch keep validation_windows halvings", lambda n: n >= 1, "at least 1"),
    ("depth", lambda n: 1 <= n <= 1000, "at least 1 and at most 1,000"),
    ("vocabulary", lambda n: 1 <= n <= 2**24, "at least 1 and at most 2**24"),
    ("context", lambda n: 2 <= n <= 2**24, "at least 2 tokens and at most 2**24"),
    ("width", lambda n: 0 < n <= 2**20 and n % 64 == 0, "a multiple of 64, and at most 2**20"),
    ("seed", lambda n: 0 <= n < 2**63, "0 or more, and below 2**63"),
    ("learning_rate muon_learning_rate", lambda rate: 0 < rate < math.inf, "above 0 and finite"),
    ("embedding_learning_rate head_learning_rate", lambda rate: 0 < rate < math.inf, "above 0 and finite"),
    ("weight_decay clip z_loss balance", lambda weight: 0 <= weight < math.inf, "0 or more, and finite"),
    ("warmup decay final", lambda share: 0 <= share <= 1, "between 0 and 1"),
    ("temperature", lambda t: 1e-3 <= t < math.inf, "at least 0.001 and finite"),
    ("mean_span", lambda tokens: 1 <= tokens < 100, "at least 1 and below 100 tokens"),
    ("rotate", lambda share: 0 <= share <= 1, "between 0 and 1"),
    (
        "beta1 beta2 dropout weight_dropout noise delete smoothing",
        lambda share: 0 <= share < 1,
        "at least 0 and below 1",
    ),
)
"""Fields of recipes, what holds for their values, and the same in words."""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _amount(name: str, text: str | None, *units: Unit) -> Quantity:
    """An amount out of a field; only a sample may be taken every 0 steps, which is never."""
    found = parse_quantity(text or "", units, _flag(name))
    if not found.value and name != "sample_every":
        raise UserError(f"{_flag(name)} {text}: must be above 0")
    return found
