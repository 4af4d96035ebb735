"""Secrets that must not be found anywhere after a run."""

from __future__ import annotations

from typing import Final

from containers.trust.keys import new_key

_PASSWORD: Final = "canary-sign-password"
_KEY: Final = new_key(_PASSWORD)[0]

# Secrets that a user may have set; the run uses those that sign, and none of the others outside its own process.
CANARIES: Final = {
    "CARWRIGHT_HUB_TOKEN": "hf_canary0hub0token",
    "CARWRIGHT_REGISTRY__HOST": "registry.example.com",
    "CARWRIGHT_REGISTRY__USERNAME": "somebody",
    "CARWRIGHT_REGISTRY__PASSWORD": "canary-registry-password",
    "CARWRIGHT_SOURCE__ACCESS_KEY_ID": "canary-source-id",
    "CARWRIGHT_SOURCE__SECRET_ACCESS_KEY": "canary-source-secret",
    "CARWRIGHT_NOTIFY_WEBHOOK": "http://127.0.0.1:9/canary-webhook",
    "CARWRIGHT_SIGN__KEY": _KEY,
    "CARWRIGHT_SIGN__PASSWORD": _PASSWORD,
}
# What is looked for afterwards: the values that give themselves away, and a line of the key.
SECRETS: Final = (*(value for value in CANARIES.values() if "canary" in value), _KEY.splitlines()[2])
