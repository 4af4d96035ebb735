"""How large a layer a registry takes."""

from __future__ import annotations

import pytest

from containers.registry_limits import layer_limit, may_refuse


@pytest.mark.parametrize(
    ("host", "limit"),
    [
        ("ghcr.io", 10_000_000_000),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", 54_525_952_000),
        ("public.ecr.aws", 54_525_952_000),
        ("quay.io", 0),
        ("registry.example.com", 0),
        ("ghcr.io.example.com", 0),
    ],
)
def test_the_limit_of_a_host(host: str, limit: int) -> None:
    """Only what a registry documents is a limit that a push holds to."""
    assert layer_limit(host) == limit


def test_who_may_refuse_a_layer() -> None:
    """The smallest limit first; up to it none is named."""
    assert may_refuse(10_000_000_000) == []
    assert may_refuse(20_000_000_001) == ["GitHub (up to 10.0 GB)", "Quay (up to 20.0 GB)"]
    assert [one.partition(" (")[0] for one in may_refuse(60 << 30)] == ["GitHub", "Quay", "Harbor", "Amazon ECR"]
