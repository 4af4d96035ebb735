"""Keys, a small signed model in a real registry, and everything that a tamperer may do to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from containers.in_toto import BOM, PROVENANCE, TEST_RESULT
from containers.oci.access import open_repository
from containers.oci.reference import Reference
from containers.signing_settings import SigningSettings
from containers.trust import signing
from containers.trust.policy import Policy
from containers.trust.signers import open_signers
from containers.trust.statement import write
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.settings import StepSettings
    from containers.trust.signers import Signer

KEYS: Final = Path(__file__).parents[1] / "golden" / "trust"
PASSWORD: Final = "secret"
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"

POLICY: Final = """\
keys:
  - name: release
    file: carwright.pub
require:
  statements: [signature, provenance, verdict, bom]
base:
  sources: ["hf://org/*"]
  revisions: [main]
recipe:
  schemes: [FP8_DYNAMIC]
gate:
  decisions: [pass]
  suites: [smoke]
max_age_days: 30
"""


@cache
def signer(name: str = "carwright") -> Signer:
    """A signer with one of the keys in tests/golden/trust: carwright or cosign."""
    (found,) = open_signers(SigningSettings(key_file=KEYS / f"{name}.key", password=PASSWORD))
    return found


def policy(text: str = POLICY) -> Policy:
    return Policy.parse(text, "policy.yaml", KEYS)


def statements(place: str, digest: Digest, **changed: dict[str, Any]) -> dict[str, bytes]:
    """The three statements that promotion makes, by the name of their predicate; `changed` replaces parts of a predicate."""
    told: dict[str, tuple[str, dict[str, Any]]] = {
        "provenance": (
            PROVENANCE,
            {
                "buildDefinition": {
                    "buildType": "urn:carwright:quantize-and-ship:v1",
                    "externalParameters": {"model": "hf://org/model", "revision": "main", "scheme": "FP8_DYNAMIC"},
                    "resolvedDependencies": [{"uri": f"hf://org/model@{COMMIT}", "digest": {"gitCommit": COMMIT}}],
                }
            },
        ),
        "verdict": (TEST_RESULT, {"result": "PASSED", "suite": {"name": "smoke"}}),
        "bom": (BOM, {"bomFormat": "CycloneDX", "specVersion": "1.7"}),
    }
    return {
        name: write([(place, digest)], kind, {**predicate, **changed.get(name, {})})
        for name, (kind, predicate) in told.items()
    }


@dataclass(frozen=True)
class SignedModel:
    """A modelcar in a repository; `reference` is by digest."""

    reference: str
    digest: Digest
    checkpoint: Path

    @property
    def target(self) -> Reference:
        return Reference.parse(self.reference).target


def push(place: str, folder: Path, settings: StepSettings, *, tokenizer: str = "") -> SignedModel:
    """A small modelcar, not signed; `folder` gets its checkpoint. With another tokenizer it is another model."""
    checkpoint = folder if folder.exists() else write_checkpoint(folder)
    if tokenizer:
        (checkpoint / "tokenizer.json").write_text(tokenizer)
    pushed = push_folder(checkpoint, place, settings)
    target = Reference.parse(place).target
    return SignedModel(str(target.at(pushed.digest)), pushed.digest, checkpoint)


def sign(
    model: SignedModel, settings: StepSettings, signers: Sequence[Signer] | None = None, **options: Any
) -> tuple[tuple[str, Any], ...]:
    """Sign the model and the three statements about it, as promotion does."""
    said = options.pop("statements", None)
    with open_repository(model.reference, settings, write=True) as repository:
        contents = tuple((said or statements(place_of(repository), model.digest)).values())
        return signing.sign(repository, model.digest, contents, signers or [signer()], **options)


def place_of(repository: Repository) -> str:
    return repository.reference.name if repository.reference.registry else str(repository.reference.target)
