"""Metrics of a task, printed."""

from collections.abc import Mapping

from langwright.base.console import print_json


def print_scores(scores: Mapping[str, float], as_json: bool) -> None:
    """Print metrics by their names in a line, or as one JSON object."""
    if as_json:
        print_json(scores)
        return
    shown = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items() if name != "rows"]
    print(f"{scores['rows']:,} held-out rows: {', '.join(shown)}", flush=True)
