"""The quantization config of a recipe, remembered in the store.

It takes the libraries of the arithmetic to make, which load for seconds. A run that finds every shard quantized, as it does
when they were quantized during the download, needs them for nothing else.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from containers.digest import canonical_json
from containers.quantize.assemble import quantization_config

if TYPE_CHECKING:
    from containers.quantize.preflight import QuantizeJob
    from containers.store import Store


def remembered_config(job: QuantizeJob, store: Store) -> dict[str, Any]:
    """What `quantization_config` gives for the job, from the store if an earlier step has put it there."""
    identity = {
        "scheme": job.recipe.scheme.name,
        "ignore": list(job.ignore),
        "determinants": dict(job.fingerprint_inputs),
    }
    key = f"results/quantization-configs/{hashlib.sha256(canonical_json(identity)).hexdigest()}.json"
    try:
        found: dict[str, Any] = json.loads(store.read_key(key))
    except (KeyError, ValueError):
        found = quantization_config(job.recipe.scheme, job.ignore)
        store.write_key(key, json.dumps(found).encode())
    return found
