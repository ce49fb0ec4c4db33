"""What Prometheus reads of a server."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from langwright.serving.served import Served
from langwright.serving.worker import Ticket

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counts of one server.

    Attributes:
        routes: the paths that are counted one by one.
    """

    def __init__(self) -> None:
        self.routes: frozenset[str] = frozenset()
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        timed: Any = {"buckets": SECONDS, **own}
        self.answers = Counter("langwright_requests", "Requests by route and status.", ["route", "status"], **own)
        self.ends = Counter("langwright_texts", "Texts by model and why they ended.", ["model", "reason"], **own)
        self.tokens = Counter("langwright_tokens", "Tokens by model: read or written.", ["model", "kind"], **own)
        self.first = Histogram("langwright_first_text_seconds", "Until the first text.", ["model"], **timed)
        self.between = Histogram("langwright_token_seconds", "Of a token after the first.", ["model"], **timed)
        self.whole = Histogram("langwright_request_seconds", "Of a request.", ["model"], **timed)
        self._served: list[Served] = []
        self.registry.register(self)

    def watch(self, served: Iterable[Served]) -> None:
        """Tell of the engines of these models too."""
        self._served = [one for one in served if one.parent is None]

    def answered(self, path: str, status: int) -> None:
        """Count an answer; paths that are no routes are one."""
        self.answers.labels(path if path in self.routes else "other", status).inc()

    def ended(self, model: str, ticket: Ticket) -> None:
        """Count a request that has ended, or was broken off."""
        for completion in ticket.completions:
            self.ends.labels(model, completion.reason).inc()
        self.tokens.labels(model, "read").inc(len(ticket.request.prompt))
        self.tokens.labels(model, "written").inc(ticket.written)
        if ticket.first and ticket.ended:
            self.first.labels(model).observe(ticket.first - ticket.began)
            self.whole.labels(model).observe(ticket.ended - ticket.began)
            longest = max((len(completion.ids) for completion in ticket.completions), default=0)
            if longest > 1:
                self.between.labels(model).observe((ticket.ended - ticket.first) / (longest - 1))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the engines say of themselves now."""
        texts = GaugeMetricFamily("langwright_open_texts", "Texts that wait or are written.", labels=["model"])
        blocks = GaugeMetricFamily("langwright_free_blocks", "Blocks of no text.", labels=["model"])
        guesses = GaugeMetricFamily("langwright_guesses", "Tokens: guessed, came.", labels=["model", "kind"])
        for one in self._served:
            texts.add_metric([one.name], one.worker.texts)
            if one.worker.engine is not None:
                blocks.add_metric([one.name], one.worker.engine.free_blocks)
                guesses.add_metric([one.name, "guessed"], one.worker.engine.guessed)
                guesses.add_metric([one.name, "came"], one.worker.engine.came)
        yield from (texts, blocks, guesses)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)
