"""What a step environment is made from and in: an index in a folder with small wheels, a lock of them, and a cache."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.environments.environment import Environment, ensure
from tests.support.package_index import pin, wheel

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from containers.events import Event


@dataclass
class Desk:
    """A cache, an index in a folder, a lock, and what was said."""

    folder: Path
    said: list[Event] = field(default_factory=list)

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def lock(self) -> Path:
        return self.folder / "requirements.lock"

    @property
    def envs(self) -> Path:
        return self.folder / "cache" / "envs"

    @classmethod
    def at(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
        """One whose lock pins one wheel; pip knows no other index."""
        for name in list(os.environ):
            if name.startswith("PIP_"):
                monkeypatch.delenv(name)
        desk = cls(folder)
        desk.lock.write_text(pin(wheel(desk.index)))
        monkeypatch.setenv("UV_CACHE_DIR", str(folder / "uv"))
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(desk.index))
        return desk

    def make(self, **more: object) -> Environment:
        return ensure("paint", self.lock, self.folder / "cache", on_event=self.said.append, **more)  # type: ignore[arg-type]

    def built(self) -> int:
        return sum(event.message.startswith("making the environment") for event in self.said)
