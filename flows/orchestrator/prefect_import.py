"""Imports Prefect without the settings files of the working directory.

When it is first imported, Prefect reads `prefect.toml`, `pyproject.toml` and `.env` of the working directory, and one of its
settings names a file of Python's logging configuration, which can run code. The folder in which somebody ships a model may be
a clone of anybody's repository: what holds is the environment and the user's own profile.
"""

from __future__ import annotations

import sys

from containers.process import empty_directory


def import_prefect() -> None:
    """To be called by a command before it imports a module that needs Prefect; costs nothing the second time."""
    if "prefect.context" in sys.modules:
        return
    with empty_directory():
        from prefect.settings import get_current_settings

        get_current_settings()
