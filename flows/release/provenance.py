"""Where a modelcar comes from, for machines: the predicate of SLSA's provenance v1 (slsa.dev/provenance/v1).

Everything is named by a digest that this run has computed or checked itself. What it only heard of (the digest of an image that
is given by tag, what a worker of another work pool ran in) is not among the dependencies.
docs/reference/provenance.md is the page of the build type.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from containers.digest import Digest, canonical_json
from containers.foreign_text import masked
from containers.labels import URI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.release.shipment import Shipment, StepEnvironment

BUILD_TYPE: Final = f"{URI}quantize-and-ship/v1"
BUILDER: Final = f"{URI}builder/v1"
_ENGINE: Final = re.compile(r"(?P<name>vllm(-cpu)?) (?P<version>[0-9][A-Za-z0-9.+!]*)(?= |$)")
_IMAGE: Final = re.compile(r"(?P<name>\S+)@sha256:(?P<hex>[0-9a-f]{64})")


def predicate(shipment: Shipment) -> dict[str, Any]:
    """The provenance of what was shipped."""
    run = shipment.run
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _without_secrets(
                {name: value for name, value in shipment.request.dump().items() if value is not None}
            ),
            "internalParameters": {
                "engine": shipment.verdict.server,
                "versions": dict(shipment.quantization.get("versions") or {}),
                "steps": [{"name": name, "state": state} for name, state in run.states],
                "environments": [_environment(one) for one in run.environments],
                **({"approval": shipment.approval} if shipment.approval else {}),
            },
            "resolvedDependencies": list(_dependencies(shipment)),
        },
        "runDetails": {
            "builder": {"id": BUILDER, **({"version": {"carwright": run.version}} if run.version else {})},
            "metadata": {"invocationId": run.id},
            "byproducts": [
                {"name": "quantized checkpoint", "digest": {"sha256": shipment.after.digest.hex}},
                {
                    "name": "verdict",
                    **({"digest": {"sha256": shipment.verdict_file.hex}} if shipment.verdict_file else {}),
                    "annotations": {
                        "decision": shipment.verdict.decision,
                        "subject": shipment.verdict.subject,
                        "baseline": shipment.verdict.baseline,
                        "engine": shipment.verdict.server,
                    },
                },
            ],
        },
    }


def _dependencies(shipment: Shipment) -> Iterator[dict[str, Any]]:
    """The resolved dependencies (in-toto's ResourceDescriptor), each with a digest; of the inference server the version."""
    source = shipment.source
    commit = {"digest": {"gitCommit": source.commit}} if source.commit else {}
    yield {"name": "base model", "uri": source.pinned, **commit}
    yield {"name": "base checkpoint", "digest": {"sha256": shipment.before.digest.hex}}
    for file in shipment.before.files:
        where = {"uri": f"{source.pinned}/{quote(file.path)}"} if shipment.from_hub else {}
        yield {"name": f"base model/{file.path}", "digest": {"sha256": file.sha256.hex}, **where}
    recipe = canonical_json(shipment.recipe.dump())
    yield {
        "name": "recipe",
        "mediaType": "application/json",
        "content": base64.b64encode(recipe).decode(),
        "digest": {"sha256": Digest.of(recipe).hex},
    }
    yield {"name": f"suite {shipment.suite.name}", "digest": {"sha256": shipment.suite.digest.hex}}
    for base, layers in sorted(shipment.image.base.items()):
        named = {"uri": f"oci://{base}"} if _IMAGE.fullmatch(base) else {}
        for layer in layers:
            yield {"name": f"base layer of {base}", "digest": {"sha256": layer.hex}, **named}
    for one in shipment.run.environments:
        if one.lock is not None:
            yield {"name": f"requirements.lock of {one.step}", "digest": {"sha256": one.lock.hex}}
        elif pinned := _IMAGE.fullmatch(one.image):
            yield {"name": f"image of {one.step}", "uri": f"oci://{one.image}", "digest": {"sha256": pinned["hex"]}}
    for server in dict.fromkeys((shipment.verdict.baseline_server, shipment.verdict.server)):
        if engine := _ENGINE.match(server):
            yield {"name": "inference server", "uri": f"pkg:pypi/{engine['name']}@{quote(engine['version'])}"}


def _environment(one: StepEnvironment) -> dict[str, str]:
    told = {"step": one.step.value, "launcher": one.launcher, "placement": one.placement, "image": one.image}
    return {name: value for name, value in told.items() if value}


def _without_secrets(value: Any) -> Any:
    """The parameters as they were asked for, but for the login in a URL and an argument such as `--hf-token=...`."""
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    if not isinstance(value, str):
        return value
    name, equals, rest = value.partition("=")
    if equals and name.startswith("--") and masked(f"?{name.lstrip('-')}={rest}") != f"?{name.lstrip('-')}={rest}":
        return f"{name}=***"
    return masked(value)
