"""Parameters and operations by hand; the machine answers, or says in one line why not."""

import dataclasses
from pathlib import Path

import pytest
import torch

from langwright.base.errors import UserError
from langwright.models.families import FAMILIES
from langwright.models.model import Model
from langwright.models.shapes import by_depth, preset
from langwright.planning import machine
from langwright.planning.cost import parameters, training_flops_per_token

GEMM_RATE = machine.gemm_rate
"""As it is before conftest.py puts a known one in its place."""


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gemm_rate", GEMM_RATE)


def on_paper(family: str, config: object) -> Model:
    with torch.device("meta"):
        return FAMILIES[family].build(config)


def test_gpt2_by_hand() -> None:
    model = on_paper(*preset("gpt2", 50257, None, 0.0))
    layer = 4 * 768 * 768 + 2 * 768 * 3072
    assert parameters(model) == 124_439_808
    for context in (1024, 128):
        expected = 6 * (12 * layer + 50257 * 768) + 6 * 12 * context * 768
        assert training_flops_per_token(model, context) == expected


def test_an_untied_head_counts_once_and_the_embedding_never() -> None:
    config = by_depth("llama", 2, 1000, 64, 0.0)
    tied, untied = (
        on_paper("llama", dataclasses.replace(config, tie_word_embeddings=shared)) for shared in (True, False)
    )
    assert parameters(untied) - parameters(tied) == 1000 * 128
    assert training_flops_per_token(untied, 64) == training_flops_per_token(tied, 64)
    layer = 4 * 128 * 128 + 3 * 128 * 384
    assert training_flops_per_token(tied, 64) == 6 * (2 * layer + 1000 * 128) + 6 * 2 * 64 * 128


def test_grouped_and_wide_heads_are_counted_as_they_are() -> None:
    config = dataclasses.replace(
        by_depth("qwen3", 2, 1000, 64, 0.0), num_attention_heads=4, num_key_value_heads=1, head_dim=10
    )
    layer = 128 * (40 + 10 + 10) + 40 * 128 + 3 * 128 * 384
    expected = 6 * (2 * layer + 1000 * 128) + 6 * 2 * 64 * 40
    assert training_flops_per_token(on_paper("qwen3", config), 64) == expected


def test_of_experts_those_count_that_a_token_passes() -> None:
    config = dataclasses.replace(by_depth("mixtral", 2, 1000, 64, 0.0), intermediate_size=40, num_local_experts=5)
    layer = 4 * 128 * 128 + 5 * 128 + 2 * 3 * 128 * 40
    assert training_flops_per_token(on_paper("mixtral", config), 0) == 6 * (2 * layer + 1000 * 128)


def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GEMM_SIDE", {"cpu": 128})
    found = machine.measure("cpu", "float32")
    assert (found.device, found.dtype) == (torch.device("cpu"), torch.float32)
    assert found.gemm_rate > 0
    line = found.describe()
    assert "\n" not in line
    assert "1 threads" in line
    assert "GFLOP/s in float32" in line


def test_the_rate_is_operations_over_the_median_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 10, 12, 20, 21, 30, 39])  # the first of four, a warm-up, does not count
    monkeypatch.setattr(machine, "GEMM_SIDE", {"cpu": 10})
    monkeypatch.setattr(machine.time, "perf_counter", lambda: float(next(clock)))
    assert machine.gemm_rate(torch.device("cpu"), torch.float32, repeats=3) == 2 * 10**3 / 2


def test_auto_takes_the_faster_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for fast, slow in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        rates = {fast: 2.0, slow: 1.0}
        monkeypatch.setattr(machine, "gemm_rate", lambda device, dtype, repeats, rates=rates: rates[dtype])
        assert machine.choose_dtype("auto", cpu) == fast
    assert machine.choose_dtype("auto", torch.device("mps")) == torch.float32
    assert machine.choose_dtype("bfloat16", cpu) == torch.bfloat16


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine.choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "abacus", "mps:9"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}") as caught:
        machine.choose_device(name)
    assert "\n" not in str(caught.value)


def test_a_container_s_limit_bounds_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 and version 1 of control groups; a file cache counts as free, "max" as no limit."""
    two, one, none = (tmp_path / name for name in ("two", "one", "none"))
    for group, limit, used, most in (
        (two, "memory.max", "memory.current", "5000"),
        (one, "memory.limit_in_bytes", "memory.usage_in_bytes", "4500"),
        (none, "memory.max", "memory.current", "max"),
    ):
        group.mkdir()
        (group / limit).write_text(most + "\n")
        (group / used).write_text("3000\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 200\n")
    cpu, whole = torch.device("cpu"), machine.free_memory(torch.device("cpu"))
    assert whole > 10_000
    for groups, free in (((two,), 2200), ((two, one), 1700), ((none, tmp_path / "nothing"), None)):
        monkeypatch.setattr(machine, "CONTROL_GROUPS", groups)
        assert machine.free_memory(cpu) == free if free else machine.free_memory(cpu) > 10_000
