"""What every test may rely on: reproducible property tests, and no setting of the machine it runs on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# In CI the same examples on every run: a red build is a change's fault and not the dice's. At a desk: new ones.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither variables nor a token of whoever runs the tests may reach them."""
    for name in list(os.environ):
        if name.startswith(("CARWRIGHT_", "HF_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the checkout."""
    return ROOT


@pytest.hookimpl(tryfirst=True)  # before the plugin that reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (`make test` takes one per core): a file's tests stay together, because they share servers.

    The whole chain comes first: it takes longest, and most of its time is waiting for an engine.
    """
    for item in items:
        chain = item.path.parent.name == "e2e" and item.path.name in {"test_ship.py", "test_kill.py"}
        group = "chain" if chain else str(item.path.relative_to(ROOT))
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.path.parent.name != "e2e")
