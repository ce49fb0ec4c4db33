"""A failure of torch.compile, reported in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from langwright.base.errors import UserError


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
        cause = getattr(error, "inner_exception", error)  # what the backend raised
        said = getattr(cause, "output", str(cause))  # by a C++ compiler, its command left out
        what = " ".join(f"{type(cause).__name__}: {said}".split())
        told = f"--compile: torch.compile does not work on this machine: {what:.200}; leave it out"
        raise UserError(told) from None
