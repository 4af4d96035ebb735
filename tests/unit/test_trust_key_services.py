"""How keys in tokens and services are named, and what of the settings reaches the promote step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.contract import Step, StepRequest
from containers.errors import BadInput
from containers.signing_settings import SigningSettings
from containers.step_variables import step_variables
from containers.trust.key_services import translated
from containers.trust.keys import PrivateKey
from containers.trust.signers import key_files, open_signers
from infra.settings import Settings
from tests.support.trust_world import KEYS, PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

PROMOTE = StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"})


@pytest.mark.parametrize(
    ("uri", "as_the_library_has_it"),
    [
        ("pkcs11:token=release;id=%02", "hsm:2?label=release"),
        ("pkcs11:id=%01%00;token=My%20Token;type=private", "hsm:256?label=My+Token"),
        ("hsm:2?label=release", "hsm:2?label=release"),
        ("awskms:alias/models", "awskms:alias/models"),
        ("awskms:///alias/models", "awskms:alias/models"),
        ("awskms:///arn:aws:kms:eu:1:key/2", "awskms:arn:aws:kms:eu:1:key/2"),
        ("gcpkms://projects/p/cryptoKeyVersions/1", "gcpkms:projects/p/cryptoKeyVersions/1"),
        ("azurekms://v.vault.azure.net/keys/k/1", "azurekms://v.vault.azure.net/keys/k/1"),
        ("hashivault://models", "hv:models"),
    ],
)
def test_a_key_by_any_of_its_names(uri: str, as_the_library_has_it: str) -> None:
    assert translated(uri) == as_the_library_has_it


@pytest.mark.parametrize(
    ("uri", "says", "remedy"),
    [
        ("release.key", "names no key", "awskms:alias/NAME"),
        ("awskms:", "names no key", "awskms:alias/NAME"),
        ("awskms://localhost:4566/alias/models", "names an endpoint", "AWS_ENDPOINT_URL_KMS"),
        ("pkcs11:token=a;id=%02?pin-value=1234", "URIs are shown", "CARWRIGHT_SIGN__PIN"),
        ("pkcs11:token=a;id=%02?module-path=/x.so", "URIs are shown", "CARWRIGHT_SIGN__PKCS11_MODULE"),
        ("pkcs11:token=a;object=b", "has object", "id=%02"),
        ("pkcs11:token=a", "has no id of a key", "id=%02"),
        ("pkcs11:id=%02", "or no token", "id=%02"),
    ],
)
def test_what_names_no_key(uri: str, says: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        translated(uri)
    assert remedy in caught.value.remedy


def test_the_clients_variables_go_to_the_promote_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a secret, those of the service that is asked, or those that are given; and none where no service signs."""
    for name in ("AWS_REGION", "AWS_SECRET_ACCESS_KEY", "VAULT_TOKEN"):
        monkeypatch.setenv(name, f"of {name}")
    monkeypatch.setenv("AWS_NOTES", "one line\nPATH=/of/the/second")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    settings = Settings(sign={"uri": "awskms:alias/models"})
    plain, secret = step_variables(settings, PROMOTE)
    assert plain == {"CARWRIGHT_SIGN__URI": "awskms:alias/models"}
    lines = secret["CARWRIGHT_SIGN__CLIENT"].splitlines()
    assert {"AWS_REGION=of AWS_REGION", "AWS_SECRET_ACCESS_KEY=of AWS_SECRET_ACCESS_KEY"} <= set(lines)
    assert all(line.startswith("AWS_") for line in lines)
    for step in Step:
        assert step_variables(settings, StepRequest(step=step, run="r")) == ({}, {})
    given = Settings(sign={"uri": "awskms:alias/models", "client": "AWS_REGION=here"})
    assert step_variables(given, PROMOTE)[1] == {"CARWRIGHT_SIGN__CLIENT": "AWS_REGION=here"}
    assert step_variables(Settings(sign={"key": "k"}), PROMOTE)[1] == {"CARWRIGHT_SIGN__KEY": "k"}


def test_a_line_for_the_client_that_is_none_is_not_shown() -> None:
    """It may be half of a secret."""
    with pytest.raises(BadInput, match="line 2 of CARWRIGHT_SIGN__CLIENT") as caught:
        open_signers(SigningSettings(uri="awskms:alias/models", client="AWS_REGION=a\nabc/def+"))
    assert "abc" not in caught.value.message


def test_a_folder_with_keys(tmp_path: Path) -> None:
    """As cosign's Secret looks when it is mounted; each key has its own password."""
    settings = SigningSettings(folder=tmp_path)
    with pytest.raises(BadInput, match="holds no key"):
        open_signers(settings)
    for name in ("carwright", "cosign"):
        (tmp_path / f"{name}.key").write_bytes((KEYS / f"{name}.key").read_bytes())
        (tmp_path / f"{name}.pub").write_bytes((KEYS / f"{name}.pub").read_bytes())
    with pytest.raises(BadInput, match=r"carwright\.key is encrypted, and no password is given"):
        open_signers(settings)
    (tmp_path / "carwright.password").write_text(PASSWORD + "\n")
    (tmp_path / "cosign.password").write_text(PASSWORD)
    assert [one.public.pem for one in open_signers(settings)] == [
        (KEYS / f"{name}.pub").read_text() for name in ("carwright", "cosign")
    ]
    (tmp_path / "cosign.password").write_text("another")
    with pytest.raises(BadInput, match=r"the password does not open .*cosign\.key"):
        open_signers(settings)


def test_keys_that_not_everybody_reads_are_told() -> None:
    """cosign and podman want ECDSA on P-256."""
    (key,) = PrivateKey.parse_all((KEYS / "carwright.key").read_text(), PASSWORD, "k")
    assert not key.public.note


def test_the_keys_of_the_settings_as_files(tmp_path: Path) -> None:
    """For a volume that promotion mounts: what was opened here opens there; keys that are elsewhere are no files."""
    given = SigningSettings(key_file=KEYS / "cosign.key", key=(KEYS / "carwright.key").read_text(), password=PASSWORD)
    files = key_files(given)
    assert sorted(files) == ["key-1.key", "key-1.password", "key-2.key", "key-2.password"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    as_folder = SigningSettings(folder=tmp_path)
    assert [one.public.pem for one in open_signers(as_folder)] == [one.public.pem for one in open_signers(given)]
    assert key_files(as_folder) == files
    assert key_files(SigningSettings()) == {}
    with pytest.raises(BadInput, match="do not sign here"):
        key_files(SigningSettings(uri="awskms:alias/models"))
    with pytest.raises(BadInput, match="KEYLESS do not sign here"):  # it would ship unsigned, and say nothing
        key_files(SigningSettings(keyless="public", key_file=KEYS / "cosign.key", password=PASSWORD))
