"""A conversation with a model: templates, history that fits the context, answers that stop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from langwright.base.errors import UserError
from langwright.inference.generate import complete
from langwright.inference.request import Completion
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.text.chat_template import ChatTemplate

ROOM = 128
"""Tokens that an answer may take unless told otherwise; half of a context that is shorter than twice as much."""


@final
@dataclass
class Conversation:
    """What has been said, and how the model goes on.

    system: what the model is told first, or None. room: tokens kept free for an
    answer, which is also the most it may take. messages: the turns so far, without the system's.
    """

    model: Model
    template: ChatTemplate
    system: str | None = None
    room: int | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def ask(
        self, text: str, sampling: Sampling = Sampling(), on_text: Callable[[str], None] = lambda text: None
    ) -> tuple[Completion, int]:
        """The answer to a message, and how many of the oldest messages had to be forgotten to make room.

        on_text: told each piece of the answer as soon as it is final. What an error or Ctrl-C breaks off is in the
        history as far as it was written. Raises UserError where even the message alone does not fit the context.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            ids, dropped = self._fit()
        except UserError:
            self.messages.pop()
            raise
        said: list[str] = []

        def hear(row: int, piece: str) -> None:
            said.append(piece)
            on_text(piece)

        try:
            (done,) = complete(self.model, self.template.tokenizer, [ids], sampling, self._room, on_text=hear)
        finally:
            self.messages.append({"role": "assistant", "content": "".join(said)})
        return done, dropped

    def reset(self) -> None:
        """Forget what has been said; the system's message stays."""
        self.messages.clear()

    @property
    def _room(self) -> int:
        return self.room or min(ROOM, self.model.window // 2)

    def _fit(self) -> tuple[list[int], int]:
        """The ids of the history, without its oldest turns where the whole leaves no room for an answer."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        before = len(self.messages)
        while True:
            ids = self.template.prompt_ids([*first, *self.messages])
            if self.model.fits(len(ids) + self._room):
                return ids, before - len(self.messages)
            if len(self.messages) == 1:
                raise UserError(
                    f"a message of {len(ids)} tokens, its template included, and {self._room} for the answer do not "
                    f"fit the model's context of {self.model.context}; write less, or fewer --max-new-tokens"
                )
            # The oldest turn: a question and all that follows it up to the next.
            later = (i for i, message in enumerate(self.messages) if i and message["role"] == "user")
            del self.messages[: next(later, len(self.messages) - 1)]
