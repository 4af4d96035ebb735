"""A policy is read whole or refused with the line and the field."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from containers.errors import BadInput
from containers.in_toto import PROVENANCE
from containers.trust.policy import Policy

FOLDER = Path(__file__).parents[1] / "golden" / "trust"
KEY = "keys:\n  - name: release\n    file: cosign.pub\n"


def test_a_policy_carries_its_keys() -> None:
    """So that a step, which has no files, gets all of it as one text."""
    policy = Policy.parse(f"{KEY}require:\n  statements: [provenance]\n", "p", FOLDER)
    assert policy.require.statements == (PROVENANCE,)
    again = Policy.load(policy.dump())
    assert again == policy
    assert again.keys[0].public.pem == (FOLDER / "cosign.pub").read_text()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (f"{KEY}requires:\n  statements: []\n", "line 4: requires: there is no such field; did you mean require?"),
        (f"{KEY}require:\n  statments: []\n", "line 5: require.statments: .*did you mean statements"),
        (f"{KEY}require:\n  statements: [provenence]\n", "line 5: require.statements.0: 'provenence' is none of"),
        (f"{KEY}gate:\n  decisions: [good]\n", "line 5: gate.decisions.0"),
        (f"{KEY}max_age_days: soon\n", "line 4: max_age_days"),
        (f"{KEY}deny: [sha256:12]\n", "line 4: deny.0"),
        ("keys: []\n", "line 1: keys"),
        ("require: {}\n", "keys: Field required"),
        ("keys:\n  - name: a\n    fil: x\n", "line 3: keys.0.fil: .*did you mean file"),
        ("keys:\n  - name: a\n    file: missing.pub\n", "cannot read .*missing.pub"),
        ("keys:\n  - name: a\n    file: cosign.key\n", "line 2: keys.0: .*no public key"),
        (f"{KEY}  - name: release\n    file: other.pub\n", "line 4: keys.1: 'release' is there twice"),
        (
            f"{KEY}base_images:\n  - repository: a\n    keys: [nobody]\n",
            "line 6: base_images.0.keys: no key is named nobody",
        ),
        ("[]", "no mapping"),
        ("keys: [", "is not YAML: line 1"),
        ("version: 2\n" + KEY, "line 1: version"),
    ],
)
def test_what_is_wrong_is_named(text: str, fragment: str) -> None:
    with pytest.raises(BadInput, match=fragment) as caught:
        Policy.parse(text, "p.yaml", FOLDER)
    assert "p.yaml" in caught.value.message or "missing.pub" in caught.value.message


def test_a_key_has_its_time() -> None:
    policy = Policy.parse(f"{KEY}    since: 2026-01-01\n    until: 2026-06-30\n", "p", FOLDER)
    (key,) = policy.keys
    assert key.why_not(date(2026, 6, 30)) == ""
    assert "expired" in key.why_not(date(2026, 7, 1))
    assert "from 2026-01-01" in key.why_not(date(2025, 12, 31))
