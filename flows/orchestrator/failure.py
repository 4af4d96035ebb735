"""An error as JSON: sent from a child run to its parent, and from a run to the command that follows it."""

from __future__ import annotations

from typing import Self

from containers.contract import Frozen
from containers.errors import Error


class Failure(Frozen):
    """The message, remedy and exit code of an error."""

    exit_code: int
    message: str
    remedy: str = ""

    @classmethod
    def of(cls, error: Error) -> Self:
        return cls(exit_code=error.exit_code, message=error.message, remedy=error.remedy)

    def error(self) -> Error:
        """The error to raise on the receiving side, with the original's exit code."""
        error = Error(self.message, remedy=self.remedy)
        error.exit_code = self.exit_code
        return error
