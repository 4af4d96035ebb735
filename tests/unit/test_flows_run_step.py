"""What a child run that serves tells others about where it can be reached."""

from __future__ import annotations

import pytest

from containers.contract import Endpoint
from flows.run_step import _advertised


@pytest.mark.parametrize(
    ("url", "host", "told"),
    [
        ("http://127.0.0.1:8000/v1", "", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "gpu-7", "http://gpu-7:8000/v1"),
        ("http://0.0.0.0:41234/v1", "10.0.0.7", "http://10.0.0.7:41234/v1"),
        ("http://carwright-serve-1:8000/v1", "gpu-7", "http://carwright-serve-1:8000/v1"),
    ],
)
def test_the_advertised_name_takes_the_place_of_this_machine(url, host, told):
    """A name that is not this machine's own, as of a container in a network of the engine's, stays."""
    endpoint = Endpoint(url=url, served_model_name="m", server="vllm")
    assert _advertised(endpoint, host).url == told
