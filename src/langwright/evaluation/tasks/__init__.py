"""The one table of tasks: what a labelled file asks of a model, how it is learnt, used and measured."""

from collections.abc import Mapping

from langwright.evaluation.tasks.choice import Choice
from langwright.evaluation.tasks.classify import Classify
from langwright.evaluation.tasks.qa import Questions
from langwright.evaluation.tasks.reward import Reward
from langwright.evaluation.tasks.series import SeriesLabels
from langwright.evaluation.tasks.similarity import Similarity
from langwright.evaluation.tasks.task import Task
from langwright.evaluation.tasks.tokens import Tokens
from langwright.evaluation.tasks.writing import Summarise, Translate

TASKS: Mapping[str, type[Task]] = {
    "classify": Classify,
    "tokens": Tokens,
    "qa": Questions,
    "translate": Translate,
    "summarise": Summarise,
    "similarity": Similarity,
    "choice": Choice,
    "series": SeriesLabels,
    "reward": Reward,
}
