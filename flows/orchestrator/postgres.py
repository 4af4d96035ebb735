"""The settings with which a Prefect server keeps its data in PostgreSQL, and a wait until that answers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from containers.errors import BadInput, NotReady

USER: Final = "carwright"
NAME: Final = "postgres"  # the database that every PostgreSQL has
PASSWORD_FILE: Final = Path("/run/database/PREFECT_SERVER_DATABASE_PASSWORD")
_POLL: Final = 0.5  # seconds between two attempts


def database_settings(host: str, port: int, password: str) -> dict[str, str]:
    """Settings of a Prefect server for the database of the image `postgres`."""
    return {
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": host,
        "PREFECT_SERVER_DATABASE_PORT": str(port),
        "PREFECT_SERVER_DATABASE_USER": USER,
        "PREFECT_SERVER_DATABASE_NAME": NAME,
        "PREFECT_SERVER_DATABASE_PASSWORD": password,
    }


def read_password(file: Path) -> str:
    """The password in a file; raises BadInput if there is none."""
    try:
        password = file.read_text().strip()
    except OSError as error:
        raise BadInput(f"the password of the database cannot be read: {error}") from error
    if not password:
        raise BadInput(f"{file} holds no password")
    return password


def wait(host: str, port: int, password: str, deadline: float = 180.0) -> None:
    """Wait until the database takes a connection.

    Raises BadInput when it refuses the password, NotReady after `deadline` seconds.
    """
    import asyncpg

    async def connect() -> None:
        connection = await asyncpg.connect(
            host=host, port=port, user=USER, password=password, database=NAME, timeout=10
        )
        await connection.close()

    began = time.monotonic()
    while True:
        try:
            asyncio.run(connect())
        except asyncpg.InvalidPasswordError as error:
            raise BadInput(
                f"PostgreSQL at {host}:{port} refuses the password",
                remedy="its data was made with another one: give that, or remove the data",
            ) from error
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError) as error:
            if time.monotonic() - began > deadline:
                raise NotReady(f"PostgreSQL at {host}:{port} does not answer: {error}") from error
        else:
            return
        time.sleep(_POLL)
