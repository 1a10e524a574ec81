"""From what was generated to the bytes of an answer, by operation."""

from __future__ import annotations

from dataclasses import dataclass

from aoai_operator.simulator.chat import chat_body, chat_events, completion_body, completion_events
from aoai_operator.simulator.generation import Generation
from aoai_operator.simulator.responses_api import responses_body, responses_events

_BODIES = {"chat/completions": chat_body, "completions": completion_body, "responses": responses_body}


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer says of itself. ``created`` is in seconds since 1970."""

    model: str
    request_id: str
    created: int

    def body(self, operation: str, generation: Generation) -> bytes:
        """A whole answer."""
        build = _BODIES[operation]
        return build(generation, model=self.model, request_id=self.request_id, created=self.created)

    def events(self, operation: str, generation: Generation, *, include_usage: bool) -> list[bytes]:
        """The events of a streamed answer; ``include_usage`` means nothing to the Responses API, which always does."""
        if operation == "responses":
            return responses_events(generation, model=self.model, request_id=self.request_id, created=self.created)
        build = chat_events if operation == "chat/completions" else completion_events
        return build(
            generation,
            model=self.model,
            request_id=self.request_id,
            created=self.created,
            include_usage=include_usage,
        )
