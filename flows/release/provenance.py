"""Where a modelcar comes from, for machines: an in-toto statement with SLSA's provenance predicate.

Formats: in-toto Attestation Framework v1 (Statement) and SLSA v1.0 (Provenance). It is unsigned: its
digest in the registry fixes its contents, but only a signature could prove the author. It contains no time, so that a
rerun without changes writes the same bytes.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.contract import ArtifactRef, PushedImage, QuantizeParameters, ResolvedSource
    from containers.verdict import Verdict

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
_BUILD: Final = "urn:carwright:quantize-and-ship:v1"


def statement(
    *,
    source: ResolvedSource,
    recipe: QuantizeParameters,
    image: PushedImage,
    checkpoints: Mapping[str, ArtifactRef],
    versions: Mapping[str, str],
    verdict: Verdict,
    base: str,
    promotion: Mapping[str, str],
) -> bytes:
    """The statement as JSON. `checkpoints` are those before and after quantization, by name; `promotion` is what promoted the
    image besides the verdict.
    """
    digest: dict[str, str] = {"gitCommit": source.commit} if source.commit else {}
    materials: list[dict[str, Any]] = [{"uri": source.pinned, **({"digest": digest} if digest else {})}]
    materials += [
        {"name": f"{name} checkpoint", "digest": {"sha256": ref.digest.hex}} for name, ref in checkpoints.items()
    ]
    told = {
        "_type": STATEMENT,
        "subject": [{"name": image.reference.partition("@")[0], "digest": {"sha256": image.digest.hex}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {
                    "model": source.source,
                    "revision": source.revision or "",
                    "scheme": recipe.scheme,
                    "ignore": list(recipe.ignore),
                    "base": base,
                    "suite": verdict.suite,
                    **promotion,
                },
                "internalParameters": {"versions": dict(sorted(versions.items()))},
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": "urn:carwright", "version": {"carwright": _version()}},
                "byproducts": [
                    {
                        "name": "verdict",
                        "annotations": {
                            "decision": verdict.decision,
                            "subject": verdict.subject,
                            "baseline": verdict.baseline,
                            "engine": verdict.server,
                        },
                    }
                ],
            },
        },
    }
    return (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()


def _version() -> str:
    try:
        return version("carwright")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "source"
