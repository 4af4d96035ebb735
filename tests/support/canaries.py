"""Secrets that must not be found anywhere after a run."""

from __future__ import annotations

from typing import Final

# Secrets that a user may have set, none of which this run has a use for outside its own process.
CANARIES: Final = {
    "CARWRIGHT_HUB_TOKEN": "hf_canary0hub0token",
    "CARWRIGHT_REGISTRY__HOST": "registry.example.com",
    "CARWRIGHT_REGISTRY__USERNAME": "somebody",
    "CARWRIGHT_REGISTRY__PASSWORD": "canary-registry-password",
    "CARWRIGHT_SOURCE__ACCESS_KEY_ID": "canary-source-id",
    "CARWRIGHT_SOURCE__SECRET_ACCESS_KEY": "canary-source-secret",
    "CARWRIGHT_NOTIFY_WEBHOOK": "http://127.0.0.1:9/canary-webhook",
}
