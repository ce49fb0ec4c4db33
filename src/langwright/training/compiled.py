"""torch.compile in a training run: the blocks are compiled for its one shape, and a broken toolchain is reported."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from langwright.base.errors import UserError
from langwright.models.model import Model


def compile_blocks(model: Model) -> None:
    """Compile each block; they share their code, so one compilation serves all. UserError where that does not work.

    The first step compiles; here a function of one operation is, so that most toolchains that fail do so at once.
    """
    try:
        torch.compile(torch.square)(torch.ones(8, device=model.device))
    except Exception as error:  # whatever the toolchain raises
        raise _refusal(error) from None
    for block in model.body.blocks:
        block.compile(dynamic=False)


@contextmanager
def compiler_errors() -> Iterator[None]:
    """While the block runs, a failure of the compiler is a UserError; all other errors pass as they are."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import InternalTorchDynamoError, ShortenTraceback  # slow to import

        # The second is what every backend's failure derives from. What the model itself does wrong is neither.
        if not isinstance(error, InternalTorchDynamoError | ShortenTraceback):
            raise
        raise _refusal(error) from None


def eager() -> AbstractContextManager[Any]:
    """Compiled blocks are for training's one shape; measuring and sampling go without."""
    return torch.compiler.set_stance("force_eager")


def _refusal(error: Exception) -> UserError:
    cause = getattr(error, "inner_exception", error)  # what the backend raised
    said = getattr(cause, "output", str(cause))  # by a C++ compiler, its command left out
    what = " ".join(f"{type(cause).__name__}: {said}".split())
    return UserError(f"--compile: torch.compile does not work on this machine: {what:.200}; leave it out")
