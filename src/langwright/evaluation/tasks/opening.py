"""A model with a task opened for use."""

from pathlib import Path

from langwright.base.errors import UserError
from langwright.base.files import read_object
from langwright.evaluation.tasks import TASKS
from langwright.evaluation.tasks.task import Task
from langwright.models.folder import RECORD
from langwright.models.model import Model
from langwright.pipelines.opening import Opening
from langwright.text.tokenizer import Tokenizer


def open_task(folder: Path, opening: Opening) -> tuple[Task, Model, Tokenizer]:
    """The task of a model folder or adapter, its model and tokenizer.

    Models from elsewhere do what their heads are for.

    Raises:
        UserError: The model has no task.
    """
    model, tokenizer = opening.open(folder, texts=False)
    trained = folder if opening.adapter is None else opening.adapter
    told = read_object(trained / RECORD, "the record of the model", optional=True).get("task")
    if isinstance(told, dict) and told.get("name") in TASKS:
        return TASKS[told["name"]].from_record(told, told["labels"]), model, tokenizer
    for kind in TASKS.values():
        if (task := kind.of(model)) is not None:
            return task, model, tokenizer
    raise UserError(
        f'{trained}: a model with the head "{model.task}" has no task to do; langwright finetune --task gives it one'
    )
