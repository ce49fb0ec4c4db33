"""What the compiler raises is told from what is raised beside it. Toolchains that fail: tests/commands/test_compile."""

import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError, TorchRuntimeError
from torch._inductor.exc import CppCompileError, InductorError

from langwright.base.errors import UserError
from langwright.training.compiled import compiler_errors


@pytest.mark.parametrize(
    "error",
    [
        InductorError(CppCompileError(["g++", "block.cpp"], "no\nroom"), None),
        InternalTorchDynamoError("KeyError: 'block'"),
    ],
    ids=["backend", "tracer"],
)
def test_a_failure_of_the_compiler_is_one_line(error: Exception) -> None:
    told = "^--compile: .* on this machine: (CppCompileError: no room|Internal.* 'block').*; leave it out$"
    with pytest.raises(UserError, match=told), compiler_errors():
        raise error


def test_a_backend_that_fails_at_the_first_call() -> None:
    def backend(*_: object) -> None:
        raise OSError("no such tool")

    with pytest.raises(UserError, match="no such tool"), compiler_errors():
        torch.compile(torch.square, backend=backend)(torch.ones(2))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        torch.OutOfMemoryError("full"),
        TorchRuntimeError("shapes differ"),
        UserError("no"),
    ],
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, compiler_errors():
        raise error
    assert found.value is error
