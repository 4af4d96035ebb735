"""What every test may rely on: reproducible property tests, and no setting of the machine it runs on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]

# In CI the same examples on every run: a red build is a change's fault and not the dice's. At a desk: new ones.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("desk", deadline=None)
# `make fuzz` chooses this one (--hypothesis-profile=fuzz) and says how many examples each parser is tried with.
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "10000")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


# A shell that starts this in the background has SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither variables nor a token of whoever runs the tests may reach them."""
    for name in list(os.environ):
        if name.startswith(("CARWRIGHT_", "HF_", "AWS_")):
            monkeypatch.delenv(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--s3",
        choices=("rclone", "seaweedfs", "moto", "all"),
        help="the S3 server for the store's tests; by default all for their core (marked every_s3), else rclone",
    )
    parser.addoption(
        "--registry",
        choices=("docker", "zuul", "all"),
        help="the registry for the tests of pushing; by default docker, and zuul as part of the campaign",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `s3_server` gets its name: the one that was chosen, or for the core of the store's tests each.

    One that takes `registry_server` likewise; zuul's environment is not there in CI.
    """
    if "registry_server" in metafunc.fixturenames:
        one = metafunc.config.getoption("--registry")
        if metafunc.definition.get_closest_marker("without_login") is not None:
            one = "docker"
        usual = ("docker", pytest.param("zuul", marks=pytest.mark.campaign))
        servers = {None: usual, "all": ("docker", "zuul")}.get(one, (one,))
        metafunc.parametrize("registry_server", servers, scope="module")
    if "s3_server" not in metafunc.fixturenames:
        return
    every = ("rclone", "seaweedfs", "moto")
    core = metafunc.definition.get_closest_marker("every_s3") is not None
    chosen = metafunc.config.getoption("--s3") or ("all" if core else "rclone")
    metafunc.parametrize("s3_server", every if chosen == "all" else [chosen])


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """The settings of a server by its name; it runs until the last test."""
    from tests.support.s3_servers import Running

    running = Running(tmp_path_factory.mktemp("s3"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the checkout."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole chain comes first: `make test` deals files to the cores in this order, and these take longest."""
    items.sort(key=lambda item: (item.path.parent.name != "e2e", item.path.name != "test_ship.py"))
