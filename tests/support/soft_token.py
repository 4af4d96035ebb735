"""A token of SoftHSM 2 (Debian's softhsm2) with keys in it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from containers.signing_settings import SigningSettings

MODULE: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN: Final = "24687531"
LABEL: Final = "carwright tests"
# The id of each key, and how OpenSSL makes one.
KEYS: Final = {
    "02": ("ecparam", "-name", "prime256v1", "-genkey", "-noout"),
    "03": ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "04": ("ecparam", "-name", "secp521r1", "-genkey", "-noout"),
    "06": ("ecparam", "-name", "secp384r1", "-genkey", "-noout"),
}


@dataclass(frozen=True)
class SoftToken:
    """Its folder; `uri` names one of its keys by id."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> SoftToken:
        (folder / "tokens").mkdir(parents=True)
        made = cls(folder)
        made._configuration.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
        made._tool("--init-token", "--free", "--label", LABEL, "--so-pin", "9876", "--pin", PIN)
        for number, argv in KEYS.items():
            key = folder / f"{number}.pem"
            text = subprocess.run(["openssl", *argv], check=True, capture_output=True).stdout
            shell = ["openssl", "pkcs8", "-topk8", "-nocrypt", "-out", str(key)]
            subprocess.run(shell, check=True, capture_output=True, input=text)
            made._tool("--import", str(key), "--token", LABEL, "--label", f"key {number}", "--id", number, "--pin", PIN)
        return made

    def public(self, number: str) -> str:
        """The public key in PEM, as OpenSSL takes it from the private one."""
        argv = ["openssl", "pkey", "-in", str(self.folder / f"{number}.pem"), "-pubout"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    @property
    def _configuration(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def client(self) -> str:
        """What the library reads from its environment."""
        return f"SOFTHSM2_CONF={self._configuration}"

    @staticmethod
    def uri(number: str = "02", label: str = LABEL) -> str:
        return f"pkcs11:token={label.replace(' ', '%20')};id=%{number}"

    def variables(self) -> dict[str, str]:
        """The settings that sign with its first key."""
        return {
            "CARWRIGHT_SIGN__URI": self.uri(),
            "CARWRIGHT_SIGN__PKCS11_MODULE": str(MODULE),
            "CARWRIGHT_SIGN__PIN": PIN,
            "CARWRIGHT_SIGN__CLIENT": self.client,
        }

    def settings(self, **changed: object) -> SigningSettings:
        given = {"uri": self.uri(), "pkcs11_module": MODULE, "pin": PIN, "client": self.client}
        return SigningSettings.model_validate(given | changed)

    def _tool(self, *arguments: str) -> None:
        environment = {**os.environ, "SOFTHSM2_CONF": str(self._configuration)}
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True, env=environment)
