"""The bill of materials of a quantized model: CycloneDX 1.7 (cyclonedx.org/docs/1.7/json), with a model card.

No library writes a model card in that format, so it is written here; the schema of cyclonedx-python-lib holds it in the tests.
It has no time and no random number: its serial number (RFC 9562, version 5) follows from its contents.
docs/reference/bill-of-materials.md maps it to the minimum elements of the G7 for AI.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from containers.digest import Digest, canonical_json
from containers.foreign_values import visible_line
from containers.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.store import FileEntry
    from containers.verdict import Score
    from flows.release.shipment import Shipment

SPEC_VERSION: Final = "1.7"
_OWN: Final = "carwright:"  # in front of the names of properties that the format has no field for
_LICENCES: Final = 16  # of a model that names several


def document(shipment: Shipment) -> dict[str, Any]:
    """The bill of materials as a JSON object."""
    model, base = _model(shipment), _base(shipment)
    tools, data = list(_tools(shipment)), list(_data_sets(shipment))
    told: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "post-build"}],
            "tools": {"components": [_author(shipment.run.version)]},
            "component": model,
        },
        "components": [base, *data, *tools],
        "dependencies": [
            {"ref": model["bom-ref"], "dependsOn": [base["bom-ref"]]},
            {"ref": base["bom-ref"]},
        ],
        "compositions": [
            {"aggregate": "complete", "assemblies": [model["bom-ref"]]},  # its files
            {"aggregate": "unknown", "dependencies": [base["bom-ref"]]},  # what the base model was trained from
        ],
    }
    return told | {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, Digest.of(canonical_json(told)).hex)}"}


def _model(shipment: Shipment) -> dict[str, Any]:
    """The quantized model as the component that the document is about."""
    base = _base_ref(shipment)
    facts = shipment.quantization
    own = {
        "digest": str(shipment.image.digest),
        "quantization:scheme": shipment.recipe.scheme,
        "quantization:ignore": json.dumps(list(facts.get("ignore") or shipment.recipe.ignore)),
        "quantization:quantized_tensors": facts.get("quantized_tensors"),
        "quantization:kept_tensors": facts.get("kept_tensors"),
        "size": shipment.after.size,
        "gate:decision": shipment.verdict.decision,
        "gate:suite": f"{shipment.suite.name}@{shipment.suite.digest}",
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{shipment.image.digest}",
        "name": _text(shipment.name),
        "version": _text(shipment.tag),
        **_purl(shipment),
        "licenses": licences(shipment.before.metadata.get("license")),
        "pedigree": {
            "ancestors": [{"type": "machine-learning-model", **_named(shipment), "bom-ref": f"{base}#ancestor"}],
            "notes": f"quantized to {shipment.recipe.scheme}",
        },
        "components": [_file(one, "model") for one in shipment.after.files],
        "modelCard": _card(shipment),
        "properties": _properties(own),
    }


def _card(shipment: Shipment) -> dict[str, Any]:
    return {
        "modelParameters": {
            "task": "text-generation",
            "modelArchitecture": _text(shipment.architecture),
            "datasets": [{"ref": f"data:{name}"} for name in _names_of_data_sets(shipment)],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(shipment))},
    }


def _metrics(shipment: Shipment) -> Iterator[dict[str, Any]]:
    """The scores of the model, each with its difference from the base model's and the bounds of that, and the measures."""
    for score in shipment.verdict.scores:
        about = _text(f"{score.category}: {score.title}" if score.category else score.title)
        yield {"type": _text(score.metric), "slice": about, "value": _number(score.candidate)}
        yield {"type": f"{_text(score.metric)} of the base model", "slice": about, "value": _number(score.baseline)}
        yield {
            "type": f"{_text(score.metric)} minus that of the base model",
            "slice": about,
            "value": _number(score.difference),
            **_interval(score),
        }
    for name, value in sorted(shipment.verdict.measures.items()):
        yield {"type": _text(name), "value": _number(value)}


def _interval(score: Score) -> dict[str, Any]:
    bounds = {"lowerBound": score.lower, "upperBound": score.upper}
    known = {name: _number(value) for name, value in bounds.items() if value is not None}
    return {"confidenceInterval": known} if known else {}


def _base(shipment: Shipment) -> dict[str, Any]:
    named = licences(shipment.before.metadata.get("license"))
    return {
        "type": "machine-learning-model",
        "bom-ref": _base_ref(shipment),
        **_named(shipment),
        "licenses": named,
        "components": [_file(one, "base") for one in shipment.before.files],
        "properties": _properties({"source": shipment.source.pinned, "digest": str(shipment.before.digest)}),
    }


def _named(shipment: Shipment) -> dict[str, Any]:
    """The base model's name and revision, as its hub has them."""
    organization, _, name = shipment.base_model.rpartition("/")
    told: dict[str, Any] = {"name": _text(name or shipment.base_model), "version": _text(shipment.base_revision)}
    if organization:
        told["group"] = _text(organization)
    if shipment.from_hub:
        path = "/".join(quote(part, safe="") for part in shipment.base_model.split("/"))
        told["purl"] = f"pkg:huggingface/{path}@{quote(shipment.base_revision.lower(), safe='')}"
    return told


def _base_ref(shipment: Shipment) -> str:
    return f"base:{shipment.before.digest}"


def _file(entry: FileEntry, owner: str) -> dict[str, Any]:
    """A file. Names with characters that cannot be seen stay what they are: JSON writes them as escapes."""
    return {
        "type": "file",
        "bom-ref": f"{owner}:file:{quote(entry.path, safe='/')}",
        "name": entry.path,
        "hashes": [{"alg": "SHA-256", "content": entry.sha256.hex}],
        "properties": _properties({"size": entry.size}),
    }


def _data_sets(shipment: Shipment) -> Iterator[dict[str, Any]]:
    """The data sets of the evaluation; those that are files of the suite have a digest."""
    files = shipment.suite.files
    for name in _names_of_data_sets(shipment):
        titles = [one.title for one in shipment.verdict.scores if one.data_set == name]
        content = files.get(name)
        told: dict[str, Any] = {
            "type": "data",
            "bom-ref": f"data:{name}",
            "name": _text(name),
            "scope": "excluded",  # it was used to measure, and is no part of what ships
            "data": [{"type": "dataset", "name": _text(name), "description": _text(", ".join(titles))}],
        }
        if content is not None:
            told["hashes"] = [{"alg": "SHA-256", "content": Digest.of(content.encode()).hex}]
        yield told


def _names_of_data_sets(shipment: Shipment) -> list[str]:
    return sorted({one.data_set for one in shipment.verdict.scores if one.data_set})


def _tools(shipment: Shipment) -> Iterator[dict[str, Any]]:
    """What quantized the model and what served it to be measured."""
    versions: Mapping[str, Any] = shipment.quantization.get("versions") or {}
    for name, version in sorted(versions.items()):
        yield _tool(_text(name), _text(version)) | {"scope": "excluded"}
    for server in sorted({shipment.verdict.baseline_server, shipment.verdict.server} - {""}):
        name, _, version = server.partition(" ")
        yield {"type": "application", "bom-ref": f"engine:{server}", "name": _text(name), "version": _text(version),
               "scope": "excluded"}  # fmt: skip


def _tool(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{quote(name)}@{quote(version)}"
    return {"type": "library", "bom-ref": f"tool:{name}", "name": name, "version": version, "purl": purl}


def _author(version: str) -> dict[str, str]:
    """What wrote this document."""
    return {"type": "application", "name": "carwright", **({"version": version} if version else {})}


def _purl(shipment: Shipment) -> dict[str, str]:
    """The package URL of an image (type oci); none for a layout, which is a folder."""
    reference = Reference.parse(shipment.image.reference)
    if not reference.registry:
        return {}
    repository = reference.name
    last = repository.rpartition("/")[2].lower()
    query = f"repository_url={quote(repository, safe='/:')}&tag={quote(shipment.tag)}"
    return {"purl": f"pkg:oci/{quote(last)}@{quote(str(shipment.image.digest), safe='')}?{query}"}


def licences(named: object) -> list[dict[str, Any]]:
    """What a model card names as its licence: an identifier of SPDX in any case, an expression of them, or a name.

    A list is that of several licences. None for a model that names none, which says nothing about what it allows.
    """
    several = list(named[:_LICENCES]) if isinstance(named, list) else [named]
    texts = [_text(one) for one in several if isinstance(one, str) and one.strip()]
    if len(texts) == 1 and (expression := _spdx(texts[0])) and " " in expression:
        return [{"expression": expression}]
    return [{"license": {"id": found} if (found := _identifier(text)) else {"name": text}} for text in texts]


def _identifier(text: str) -> str:
    found = _spdx(text)
    return "" if " " in found or found.startswith("LicenseRef-") else found


def _spdx(text: str) -> str:
    """As SPDX writes it; empty for what is no expression of its identifiers."""
    try:
        return str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, ValueError):
        return ""


def _properties(named: Mapping[str, object]) -> list[dict[str, str]]:
    return [
        {"name": f"{_OWN}{name}", "value": str(value)} for name, value in sorted(named.items()) if value is not None
    ]


def _text(value: object) -> str:
    """A name or a word of somebody else's, as one line that can be seen."""
    return visible_line(value)


def _number(value: float) -> str:
    return f"{value:.6g}"
