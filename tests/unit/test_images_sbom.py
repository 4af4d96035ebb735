"""The bill of materials of an image: what its locks hold, in CycloneDX, and the same bytes each time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner

from containers.errors import BadInput
from flows.cli.main import app
from infra.images.context import Inputs, inputs_of, lay_out_inputs
from infra.images.debian import Deb, section
from infra.images.sbom import Component, installed
from infra.images.targets import ROOT, TARGETS, Target, find
from infra.images.wheels import Wheelhouse

if TYPE_CHECKING:
    from pathlib import Path

ZEROS, ONES = "0" * 64, "1" * 64
VLLM = f"docker.io/vllm/vllm-openai@sha256:{ONES}"
LOCK = f"""\
Paint_Brush==1.4.2+cpu \\
    --hash=sha256:{ONES} \\
    --hash=sha256:{ZEROS}
canvas==2.0 \\
    --hash=sha256:{ZEROS}
"""
# As dpkg writes it (deb822): one that is there, one that was removed and left its configuration, one that says no version.
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u10
Description: a library
 Package: not this one

Package: gone
Status: deinstall ok config-files
Version: 1

Package: odd
Status: install ok installed
"""


@pytest.fixture
def easel(tmp_path: Path) -> Inputs:
    """An image of two Python packages and one of Debian."""
    for name, content in {"Containerfile": "", "lock": LOCK, "infra/images/requirements.lock": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = inputs_of(Target("easel", "where pictures stand", lock="lock"), root=tmp_path)
    return replace(found, base_debs=(Deb("libstdc++6", "12.2.0-14+deb12u1", ONES),))


def errors(content: bytes) -> object:
    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(content.decode())


def test_every_package_has_its_name_version_url_and_hash(easel: Inputs) -> None:
    content = easel.sbom()
    assert errors(content) is None
    told = json.loads(content)
    debian = "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
    assert [{name: value for name, value in one.items() if name != "bom-ref"} for one in told["components"]] == [
        {
            "type": "library", "name": "libstdc++6", "version": "12.2.0-14+deb12u1", "purl": debian,
            "hashes": [{"alg": "SHA-256", "content": ONES}],
        },
        {
            "type": "library", "name": "canvas", "version": "2.0", "purl": "pkg:pypi/canvas@2.0",
            "hashes": [{"alg": "SHA-256", "content": ZEROS}],
        },
        {
            "type": "library", "name": "paint-brush", "version": "1.4.2+cpu", "purl": "pkg:pypi/paint-brush@1.4.2%2Bcpu",
            "properties": [
                {"name": "dev.carwright.sha256", "value": ZEROS}, {"name": "dev.carwright.sha256", "value": ONES},
            ],
        },
    ]  # fmt: skip
    assert told["metadata"]["component"]["name"] == "carwright/easel"
    assert told["dependencies"][0]["dependsOn"] == [one["bom-ref"] for one in told["components"]]
    assert told["compositions"][0]["aggregate"] == "complete"
    assert "timestamp" not in told["metadata"]


def test_what_a_base_brings_is_told_or_said_to_be_unknown(easel: Inputs) -> None:
    on_a_base = replace(easel, base=f"docker.io/library/python@sha256:{ZEROS}", base_debs=())
    alone = json.loads(on_a_base.sbom())
    assert alone["compositions"][0]["aggregate"] == "incomplete"
    (base, *_) = alone["components"]
    assert (base["type"], base["name"], base["version"]) == (
        "container", "docker.io/library/python", f"sha256:{ZEROS}",
    )  # fmt: skip
    known = on_a_base.sbom(STATUS)
    assert errors(known) is None
    assert json.loads(known)["compositions"][0]["aggregate"] == "complete"
    names = [(one["name"], one.get("version")) for one in json.loads(known)["components"]]
    assert ("libc6", "2.36-9+deb12u10") in names
    assert not {"gone", "odd", "not this one"} & {name for name, _ in names}


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (STATUS, [("libc6", "2.36-9+deb12u10")]),
        ("", []),
        ("Package: a\nVersion: 1\n", []),
        ("\n\n\n", []),
        ("nonsense", []),
    ],
)
def test_a_record_of_dpkg(status: str, found: list[tuple[str, str]]) -> None:
    assert list(installed(status)) == found


def test_a_locked_package_counts_over_the_base_s_record(easel: Inputs) -> None:
    status = "Package: libstdc++6\nStatus: install ok installed\nVersion: 1\n"
    (one,) = [one for one in easel.components(status) if one.ecosystem == "Debian"]
    assert one == Component("Debian", "libstdc++6", "12.2.0-14+deb12u1", (ONES,))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_image_has_one_that_the_schema_takes(target: Target) -> None:
    found = inputs_of(target, vllm=VLLM if target.upstream else "")
    content = found.sbom()
    assert errors(content) is None
    assert content == inputs_of(target, vllm=VLLM if target.upstream else "").sbom()
    names = {one["name"] for one in json.loads(content)["components"]}
    assert {one.name for one in found.packages} <= names
    assert {deb.name for deb in section(target.name)} <= names


def test_the_image_gets_the_file_that_is_printed(tmp_path: Path) -> None:
    """It is an input of the build, and so part of what decides whether an image is up to date."""
    (target,) = find(["modelcar-base"])
    inputs = inputs_of(target)
    lay_out_inputs(inputs, tmp_path / "inputs", tmp_path, Wheelhouse(tmp_path / "wheels"))
    printed = CliRunner().invoke(app, ["images", "sbom", "modelcar-base"])
    assert (tmp_path / "inputs/sbom.cdx.json").read_bytes() == printed.stdout_bytes
    told: dict[str, Any] = json.loads(printed.stdout)
    assert told["components"] == []
    copied = "COPY --from=laid-out /inputs/sbom.cdx.json /opt/carwright/sbom.cdx.json\n"
    stages = (ROOT / "Containerfile").read_text().split("\nFROM ")
    assert [stage.split("\n")[0] for stage in stages if copied in stage] == ["packages AS image", "${VLLM} AS serve"]


def test_the_command_writes_a_file_and_names_what_is_no_image(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["images", "sbom", "push", "--output", str(tmp_path / "push.json")])
    assert ended.exit_code == 0
    assert errors((tmp_path / "push.json").read_bytes()) is None
    refused = CliRunner().invoke(app, ["images", "sbom", "easel"])
    assert isinstance(refused.exception, BadInput)
