"""What holds for every test: checked types and shapes, one thread, no network, a cache of its own, fixed examples."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["COLUMNS"] = "100"
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


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets; tests that ask for it are skipped, loudly, where there is none."""
    name = os.environ.get("LANGWRIGHT_DATA")
    if not name:
        pytest.skip("SKIPPED FOR WANT OF REAL DATA: set LANGWRIGHT_DATA to the folder that holds it")
    folder = Path(name)
    assert folder.is_dir(), f"LANGWRIGHT_DATA={name} is not a folder"
    return folder
