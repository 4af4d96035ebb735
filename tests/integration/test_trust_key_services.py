"""Keys in a token (SoftHSM 2) and in AWS KMS (moto's), through the library that signs with them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import boto3
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.utils import ECDSAPrivateKey, RSAPrivateKey
from moto.server import ThreadedMotoServer

from containers.errors import BadInput, Error, Temporary
from containers.signing_settings import SigningSettings
from containers.trust.keys import PublicKey
from containers.trust.signers import open_signers, signature_of
from tests.support.ports import free_port
from tests.support.soft_token import PIN, SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftToken]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", "")  # put back what the signers set in this process
        patch.setenv("PYKCS11LIB", "")
        yield SoftToken.make(tmp_path_factory.mktemp("token"))


@pytest.mark.parametrize(("number", "curve"), [("02", "secp256r1"), ("06", "secp384r1")])
def test_a_token_signs(token: SoftToken, tmp_path: Path, number: str, curve: str) -> None:
    """OpenSSL verifies it with the key that was put in; the key says itself which one it is."""
    (signer,) = open_signers(token.settings(uri=token.uri(number)))
    assert signer.public.key.curve.name == curve
    (tmp_path / "sig").write_bytes(signature_of(signer, b"message"))
    (tmp_path / "m").write_bytes(b"message")
    (tmp_path / "pub").write_text(signer.public.pem)
    digest = "-sha256" if curve == "secp256r1" else "-sha384"
    argv = ["openssl", "dgst", digest, "-verify", "pub", "-signature", "sig", "m"]
    assert subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert PublicKey.parse(token.public(number), "k").fingerprint == signer.public.fingerprint
    assert PIN not in repr(signer)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pin": "1111"}, "the PIN is wrong"),
        ({"pin": None}, "CARWRIGHT_SIGN__PIN is not set"),
        ({"pkcs11_module": None}, "CARWRIGHT_SIGN__PKCS11_MODULE is not set"),
        ({"pkcs11_module": "/nowhere/token.so"}, "/nowhere/token.so: cannot open shared object file"),
        ({"uri": SoftToken.uri(label="another")}, "No PKCS#11 token found for label another"),
        ({"uri": SoftToken.uri("09")}, "could not find ECDSA key"),
        ({"uri": SoftToken.uri("03")}, "could not find ECDSA key"),  # it is of RSA
        ({"uri": SoftToken.uri("04")}, "secp521r1 is not a supported EC curve"),
    ],
)
def test_a_token_that_does_not_sign_says_why(token: SoftToken, changed: dict[str, object], says: str) -> None:
    """One line each, with what to do, and never the PIN."""
    settings = token.settings(**changed)
    with pytest.raises(BadInput, match=says) as caught:
        signature_of(open_signers(settings)[0], b"message")
    assert caught.value.remedy
    assert "1111" not in f"{caught.value.message} {caught.value.remedy}"


def _sign_digest(key: ECDSAPrivateKey | RSAPrivateKey, digest: bytes, algorithm: str) -> bytes:
    """What moto leaves out ("The MessageType-parameter DIGEST is not yet implemented"): it would hash the digest again."""
    made = Prehashed(hashes.SHA384() if algorithm.endswith("384") else hashes.SHA256())
    if isinstance(key, RSAPrivateKey):
        return key.private_key.sign(digest, padding.PKCS1v15(), made)
    return key.private_key.sign(digest, ec.ECDSA(made))


class Kms:
    """moto's KMS, and a client of it."""

    def __init__(self, port: int) -> None:
        self.variables = {
            "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:{port}",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_MAX_ATTEMPTS": "1",
        }
        self.client = boto3.client(
            "kms",
            endpoint_url=self.variables["AWS_ENDPOINT_URL_KMS"],
            region_name="eu-central-1",
            aws_access_key_id="an-id",
            aws_secret_access_key="a-secret",
        )

    def key(self, spec: str, usage: str = "SIGN_VERIFY") -> str:
        return str(self.client.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])

    def settings(self, uri: str, **changed: str) -> SigningSettings:
        lines = "\n".join(f"{name}={value}" for name, value in (self.variables | changed).items())
        return SigningSettings.model_validate({"uri": uri, "client": lines})


@pytest.fixture(scope="module")
def kms() -> Iterator[Kms]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for kind in (ECDSAPrivateKey, RSAPrivateKey):
            patch.setattr(kind, "sign", _sign_digest)
        made = Kms(server.get_host_and_port()[1])
        for name in made.variables:
            patch.setenv(name, "")
        yield made
    server.stop()


@pytest.mark.parametrize("written", ["awskms:{}", "awskms:///{}"])
@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "RSA_2048"])
def test_kms_signs(kms: Kms, spec: str, written: str) -> None:
    """As the library names the key and as cosign does; KMS itself verifies what came out, over the message."""
    key = kms.key(spec)
    (signer,) = open_signers(kms.settings(written.format(key)))
    made = signature_of(signer, b"message")
    algorithm = {"ECC_NIST_P256": "ECDSA_SHA_256", "ECC_NIST_P384": "ECDSA_SHA_384"}
    said = kms.client.verify(
        KeyId=key,
        Message=b"message",
        MessageType="RAW",
        Signature=made,
        SigningAlgorithm=algorithm.get(spec, "RSASSA_PKCS1_V1_5_SHA_256"),
    )
    assert said["SignatureValid"]


def test_an_alias_and_several_keys(kms: Kms) -> None:
    kms.client.create_alias(AliasName="alias/models", TargetKeyId=kms.key("ECC_NIST_P256"))
    both = open_signers(kms.settings(f"awskms:alias/models awskms:///{kms.key('ECC_NIST_P256')}"))
    assert len({one.public.fingerprint for one in both}) == 2


def test_kms_that_refuses_says_why(kms: Kms) -> None:
    """A key that is not there, and keys of other kinds."""
    wrong = [
        ("awskms:alias/none", BadInput, "NotFoundException"),
        (f"awskms:{kms.key('ECC_SECG_P256K1')}", BadInput, "on the curve secp256k1"),
        (f"awskms:{kms.key('RSA_2048', 'ENCRYPT_DECRYPT')}", BadInput, "AWS KMS does not sign"),
    ]
    for uri, kind, says in wrong:
        with pytest.raises(kind, match=says) as caught:
            open_signers(kms.settings(uri))
        assert caught.value.remedy
        assert "a-secret" not in caught.value.message


def test_kms_that_does_not_answer_is_temporary(kms: Kms) -> None:
    """And one without a region, or a package that is not there, is not."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Temporary, match="AWS KMS does not sign with awskms:alias/models: Could not connect"):
        open_signers(kms.settings("awskms:alias/models", AWS_ENDPOINT_URL_KMS=nowhere))
    for uri, package in (
        ("gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "google-cloud-kms"),
        ("azurekms://v.vault.azure.net/keys/k/1", "azure-identity"),
        ("hashivault://k", "hvac"),
    ):
        with pytest.raises(Error, match=f"Carwright does not include {package}") as caught:
            open_signers(SigningSettings(uri=uri))
        assert caught.value.exit_code == BadInput.exit_code
