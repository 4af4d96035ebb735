"""What several integration tests stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.objectstore import EmbeddedStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import StoreSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    """The embedded store, with no bucket yet."""
    folder = tmp_path_factory.mktemp("store")
    with EmbeddedStore(folder / "data", folder / "log.txt") as settings:
        yield settings
