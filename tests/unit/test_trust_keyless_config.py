"""A trust configuration of one's own sends a token nowhere but where it is safe."""

from __future__ import annotations

import json
import time

import jwt
import pytest

from containers.errors import BadInput
from containers.trust import certified
from containers.trust.keyless import KeylessSigner


def token() -> str:
    """Made when it is used: this module may be imported long before its tests run."""
    now = int(time.time())
    claims = {"iss": "https://issuer.example", "sub": "s", "aud": "sigstore", "iat": now, "exp": now + 300}
    return jwt.encode(claims, "k" * 32, "HS256")


@pytest.mark.parametrize("name", ["caUrls", "ca_urls", "rekorTlogUrls", "rekor_tlog_urls", "tsaUrls", "tsa_urls"])
@pytest.mark.parametrize("url", ["http://fulcio.example", "http://[::1", "ftp://localhost", ""])
def test_no_service_is_asked_in_the_open(name: str, url: str) -> None:
    """The library reads either spelling of a name."""
    config = json.loads(certified.public_config())
    config["signingConfig"][name] = [{"url": url}]
    with pytest.raises(BadInput, match="which is not reached by https"):
        KeylessSigner(json.dumps(config), token())
