"""What every program of Carwright takes from the variables for proxies and certificates, so that all of its libraries do.

httpx, requests, botocore, pip and rclone read different ones of these variables, and send requests for this machine
itself through a proxy unless NO_PROXY says otherwise.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.process import export, inherited

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_PROXIES: Final = frozenset(f"{kind}_proxy" for kind in ("http", "https", "all"))
# httpx and OpenSSL read the first, requests, botocore and pip the second, curl the third.
_BUNDLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def arrange() -> None:
    """Complete this process's variables, see `completed`; to be called before the first connection."""
    export(completed(inherited()))


def completed(variables: Mapping[str, str]) -> dict[str, str]:
    """What the variables lack: with a proxy, the exceptions for loopback; the bundle of certificates for each library.

    Raises BadInput for a bundle that is not there and for a SOCKS proxy where nothing speaks SOCKS.
    """
    added: dict[str, str] = {}
    proxies = {name: value for name, value in variables.items() if name.lower() in _PROXIES and value}
    for name, value in proxies.items():
        if value.lower().startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise BadInput(
                f"{name} names a SOCKS proxy, and only HTTP proxies are supported",
                remedy=f"unset {name} and set HTTPS_PROXY to an HTTP proxy, if there is one",
            )
    if proxies:
        given = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        hosts += [host for host in LOOPBACK_NAMES if host not in hosts and "*" not in hosts]
        added |= dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))
    bundles = {name: variables[name] for name in _BUNDLES if variables.get(name)}
    for name, path in bundles.items():
        if not Path(path).exists():
            raise BadInput(f"{name} names {path}, and there is no such file", remedy=f"correct {name}, or unset it")
    if bundles:
        bundle = next(iter(bundles.values()))
        added |= {name: bundle for name in _BUNDLES if name not in bundles}
        if Path(bundle).is_dir() and "SSL_CERT_FILE" in added:
            del added["SSL_CERT_FILE"]
            added["SSL_CERT_DIR"] = bundle
    return added
