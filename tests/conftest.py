"""What holds for every test: checked types and shapes, one thread, no network, a cache of its own, fixed examples."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["COLUMNS"] = "100"
# torch.compile believes the processor's flags, instead of compiling a program for half a minute to try them.
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
# Processes that tests start see this checkout, whatever is installed.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

# Before any import of langwright: annotations, shapes included, are checked at run time.
jaxtyping.install_import_hook("langwright", "runtime_types.check")

settings.register_profile(
    "langwright",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("langwright")


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def session_cache() -> Iterator[Path]:
    """A cache folder for the session, so that no test reads or fills the user's own."""
    with tempfile.TemporaryDirectory(prefix="langwright-cache-") as folder:
        os.environ["LANGWRIGHT_CACHE"] = folder
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def known_machine() -> Iterator[None]:
    """A machine whose speed is known: measuring it takes seconds, and might choose another dtype each time."""
    from processes import rate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langwright.planning.machine.gemm_rate", rate)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets; tests that ask for it are skipped, loudly, where there is none."""
    name = os.environ.get("LANGWRIGHT_DATA")
    if not name:
        pytest.skip("SKIPPED FOR WANT OF REAL DATA: set LANGWRIGHT_DATA to the folder that holds it")
    folder = Path(name)
    assert folder.is_dir(), f"LANGWRIGHT_DATA={name} is not a folder"
    return folder


@pytest.fixture
def prints(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command, which must succeed, and return what it wrote on standard output."""
    from langwright.cli import main

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run a command, which must end with exit code 2 and one line that holds each of `names`."""
    from langwright.cli import main

    def run(*words: object, names: str | tuple[str, ...] = ()) -> None:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        line = err.removesuffix("\n").rpartition("\n")[2]
        assert out == ""
        assert line.startswith((f"langwright {words[0]}: ", "langwright: "))
        assert "Traceback" not in err
        assert all(name in line for name in ((names,) if isinstance(names, str) else names)), line

    return run
