"""What a policy is compared with: the model as it was when the run began."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from langwright.adaptation.attached import attached
from langwright.objectives.batch import Models


@contextmanager
def base_under_adapter(models: Models) -> Iterator[Any]:
    """The policy itself with its adapter switched off: no second copy."""
    model = models["model"]
    on = attached(model)
    chosen = on.chosen
    on.choose(())
    try:
        yield model
    finally:
        on.choose(chosen)


def frozen_copy(models: Models) -> AbstractContextManager[Any]:
    """A second model, which is not trained."""
    return nullcontext(models["reference"])
