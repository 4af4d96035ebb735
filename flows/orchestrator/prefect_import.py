"""Imports Prefect without the settings files of the working directory.

When it is first imported, Prefect reads `prefect.toml`, `pyproject.toml` and `.env` of the working directory, and one of its
settings names a file of Python's logging configuration, which can run code. The working directory may be a
clone of an untrusted repository, so only the environment and the user's own profile count.
"""

from __future__ import annotations

import sys

from containers.process import empty_directory


def import_prefect() -> None:
    """Import Prefect; a command calls this before it imports a module that needs Prefect. The second call costs nothing."""
    if "prefect.context" in sys.modules:
        return
    with empty_directory():
        from prefect.settings import get_current_settings

        get_current_settings()
