"""langwright predict: what a model says of each row of a file."""

import json
from pathlib import Path

from langwright.base.errors import check_flag
from langwright.corpora.labelled import Columns
from langwright.evaluation.tasks.opening import open_task
from langwright.inference.sampling import Search
from langwright.pipelines.opening import Opening


def predict(
    model: Path,
    file: str,
    *,
    columns: Columns = Columns(),
    batch_size: int = 32,
    search: Search = Search(),
    max_new_tokens: int | None = None,
    opening: Opening = Opening(dtype="auto"),
) -> None:
    """Do a model's task for each row of a file: one JSON object a row, in their order, on standard output.

    Args:
        model: a model folder that finetune --task left, or one of transformers with a head for a task.
        file: the rows: .csv, .tsv, .jsonl, .json or .parquet; answers in it are passed over. Where one text is asked
            about, to label, tag, translate or summarise, a .txt has one a line.
        columns: which columns hold what.
        batch_size: rows in a forward pass.
        search: how answers that are written are searched.
        max_new_tokens: the most tokens of one; as many as the longest that was learnt, unless given.
        opening: how the model is opened.
    """
    check_flag("batch_size", batch_size, batch_size >= 1, "at least 1")
    task, loaded, tokenizer = open_task(model, opening)
    task = task.searched(search, max_new_tokens)
    items = task.reread(file, columns, answered=False)
    task.check(loaded, tokenizer, items)
    for answer in task.predict(loaded, tokenizer, items, batch_size):
        print(json.dumps(answer, ensure_ascii=False), flush=True)
