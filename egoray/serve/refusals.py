"""What a question is refused with: a status, a code for programs and a line for people; never a path, a trace or a key."""

from __future__ import annotations

from typing import Any

from egoray.errors import EgorayError


class Refused(EgorayError):
    """A question that gets no answer.

    Args:
        status: of HTTP.
        code: one word or two, for programs.
        message: one line with the remedy.
        retry_after_s: after which another try makes sense.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str, str, int | None]]:
        return (Refused, (self.status, self.code, str(self), self.retry_after_s))

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": {"code": self.code, "message": str(self)}}

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def busy(status: int = 429) -> Refused:
    """Too many are asking."""
    return Refused(status, "busy", "the service has as many questions as it takes; ask again in a moment", 1)
