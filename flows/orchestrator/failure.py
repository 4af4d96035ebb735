"""An error that crosses a border as JSON: from a child run to its parent, and from a run to whoever follows it."""

from __future__ import annotations

from typing import Self

from containers.contract import Frozen
from containers.errors import Error


class Failure(Frozen):
    """What an error said, and its exit code."""

    exit_code: int
    message: str
    remedy: str = ""

    @classmethod
    def of(cls, error: Error) -> Self:
        return cls(exit_code=error.exit_code, message=error.message, remedy=error.remedy)

    def error(self) -> Error:
        """The error to raise on this side; it carries the exit code of the one that was raised there."""
        error = Error(self.message, remedy=self.remedy)
        error.exit_code = self.exit_code
        return error
