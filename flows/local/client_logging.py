"""What Prefect's client says of itself in the process of a command: nothing in the terminal, which shows the steps' own messages."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of prefect/logging/logging.yml; `console` and `debug` are the handlers that write to standard error.
ENVIRONMENT: Final[Mapping[str, str]] = {
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_API_LEVEL": "DEBUG",
}


def set_up() -> None:
    """Set up Prefect's loggers, after `ENVIRONMENT` was exported and Prefect was imported.

    What cannot be sent to its server is dropped in silence: Prefect would write that to standard error (prefect/logging/handlers.py),
    without an end of line, so that the error of the run began in the middle of one.
    """
    from prefect.logging.configuration import setup_logging

    setup_logging()
    logging.raiseExceptions = False
