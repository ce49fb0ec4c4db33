"""How sure a cascade is of an answer: a number from 0 to 1 that ranks answers by how likely they are right.

Quantiles of log-probabilities are from Gupta et al. (2024), agreement from Yue et al. (2024), the learned scorer from
FrugalGPT (Chen et al., 2023).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from langwright.base.errors import check_flag
from langwright.inference.request import Logprob, Reason

Kind = Literal["perplexity", "quantile", "margin", "agreement", "learned"]


@dataclass(frozen=True)
class Answer:
    """What a model answered to a prompt, and what that took.

    Args:
        text: the answer.
        logprobs: of its tokens, the end of the text included, untempered, with the two likeliest beside each.
        samples: further answers, drawn at random, where the scorer compares them.
        read: tokens of the prompt.
        written: tokens of the answer and of the samples.
        seconds: that it took.
        price: by the tokens read and written.
        reason: why the text ended.
    """

    text: str
    logprobs: Sequence[Logprob] = ()
    samples: Sequence[str] = ()
    read: int = 0
    written: int = 0
    seconds: float = 0.0
    price: float = 0.0
    reason: Reason = "end"


@dataclass(frozen=True)
class Scorer:
    """How sure a cascade is of an answer.

    Args:
        scorer: perplexity, exp of the mean log-probability of a token; quantile, exp of a low quantile of them, from
            which one bad token of a long answer cannot hide; margin, the mean lead over the second likeliest token;
            agreement, the share of drawn answers that say the same; learned, a classifier that reads prompt and answer.
        alpha: which quantile.
        samples: how many answers are drawn for agreement.
    """

    scorer: Kind = "perplexity"
    alpha: float = 0.1
    samples: int = 4

    def __post_init__(self) -> None:
        check_flag("alpha", self.alpha, 0 <= self.alpha <= 1, "from 0 to 1")
        check_flag("samples", self.samples, 1 <= self.samples <= 64, "from 1 to 64")

    @property
    def drawn(self) -> int:
        """How many answers are drawn beside the first."""
        return self.samples if self.scorer == "agreement" else 0

    def score(self, answer: Answer) -> float:
        """The score of an answer; that of "learned" comes from elsewhere."""
        found = [one.logprob for one in answer.logprobs]
        if self.scorer == "agreement":
            same = sum(normal(text) == normal(answer.text) for text in answer.samples)
            return same / len(answer.samples) if answer.samples else 0.0
        if not found:
            return 0.0
        match self.scorer:
            case "perplexity":
                return math.exp(sum(found) / len(found))
            case "quantile":
                return float(np.exp(np.quantile(found, self.alpha)))
            case "margin":
                return sum(_lead(one) for one in answer.logprobs) / len(found)
        raise ValueError(f"{self.scorer} is no score of the model's own")


def _lead(one: Logprob) -> float:
    """The probability of a token less that of the likeliest other one, at least 0."""
    others = [logprob for token, logprob in one.top if token != one.token]
    return max(0.0, math.exp(one.logprob) - math.exp(max(others, default=-math.inf)))


def normal(text: str) -> str:
    """A text as answers are compared: without case, blanks at the ends and double ones, and a last full stop."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()
