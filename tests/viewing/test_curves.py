"""The curves of a run: what its metrics say, whatever they lack."""

import json
import math

import numpy as np
import pytest

from langwright.viewing.curves import curves, running_average
from viewing.markup import check_self_contained, parse, words


def metrics(steps: int = 200) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        loss = 2 + 6 * math.exp(-step / 10)
        rows.append({"step": step, "tokens": 512 * step, "loss": loss, "seconds": 0.1 * step})
        rows[-1] |= {"learning_rate": 1e-3 * step / steps, "tokens_per_second": 5000.0}
        if step % 50 == 0:
            rows.append({"step": step, "tokens": 512 * step, "loss": None, "validation_loss": loss + 0.125})
    return rows


def drawn(rows: list[dict[str, object]]) -> str:
    return f"<div>{curves(rows)}</div>"


def test_curves_come_from_the_metrics() -> None:
    shown = parse(drawn(metrics()))
    labels = [picture.get("aria-label") for picture in shown.iter("svg") if picture.get("role") == "img"]
    assert labels == [
        "Loss, nats per token against tokens seen: training from 7.429 to 2, validation from 2.165 to 2.125",
        "Learning rate against tokens seen: learning rate from 5e-6 to 0.001",
        "Tokens per second against tokens seen: tokens per second from 5k to 5k",
    ]
    rows = [[cell.text for cell in row] for row in shown.findall(".//details//tbody/tr")]
    assert rows[-1] == ["200", "102,400", "2.0000", "2.1250", "0.001", "5,000"]
    assert len(rows) == 4


def test_a_policy_shows_its_reward_first() -> None:
    shown = parse(
        drawn([{"step": n, "loss": 0.1, "reward": n / 10, "kl": n / 5, "clip_share": 0.0} for n in (1, 2, 3)])
    )
    labels = [picture.get("aria-label") for picture in shown.iter("svg") if picture.get("role") == "img"]
    assert [str(label).partition(" against")[0] for label in labels] == [
        "Reward of an answer",
        "KL, nats an answer",
        "Share of ratios clipped",
        "Reward by KL",
    ]


def test_rewards_over_kl_show_where_the_second_turns() -> None:
    rows = [{"step": n, "loss": 0.1, "reward": float(n), "gold": 4.0 - abs(n - 4), "kl": 0.5 * n} for n in range(1, 9)]
    page = curves([*rows, {"step": 8, "validation_reward": 7.0}])
    assert "Reward by KL" in page
    assert "second reward" in page
    assert "Reward by KL" not in curves([{"step": n, "loss": 0.1, "reward": 1.0} for n in range(1, 9)])


def test_metrics_read_from_a_file_may_be_poor() -> None:
    lines = ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": null, "seconds": 2}', '{"step": 3, "loss": 2.5}', "{}"]
    poor = [json.loads(line) for line in lines]
    assert "against step" in drawn(poor)
    for rows in (poor, [{"step": 1, "loss": 3.0}], [{"loss": 3.0}]):
        check_self_contained(drawn(rows))
    assert not any(map(curves, ([], [{}], [{"step": 1, "loss": math.nan}])))


def test_a_steep_beginning_leaves_the_frame_and_is_told() -> None:
    assert "lie above the frame" in words(drawn(metrics(400)))
    flat: list[dict[str, object]] = [{"step": step, "loss": 2.0 + 0.001 * (step % 7)} for step in range(400)]
    assert "lie above the frame" not in words(drawn(flat))


@pytest.mark.parametrize(
    ("values", "reach", "means"),
    [
        ([0, 1, 2, 3, 4, 5], 2, [0, 1, 2, 3, 3.5, 4]),
        ([2.0] * 5, 3, [2.0] * 5),
        ([0, 6, 0, 6], 1, [0, 2, 4, 3]),
        ([], 3, []),
        ([1, math.nan, 3], 1, [1, math.nan, 2]),
    ],
)
def test_running_average(values: list[float], reach: int, means: list[float]) -> None:
    assert running_average(np.array(values, float), reach).tolist() == pytest.approx(means, nan_ok=True)
