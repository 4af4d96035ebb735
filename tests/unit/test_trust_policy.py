"""A policy is read whole or refused with the line and the field."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from containers.errors import BadInput
from containers.in_toto import BOM, PROVENANCE
from containers.trust.certified import Certified
from containers.trust.dsse import IN_TOTO
from containers.trust.evidence import trusted_identity
from containers.trust.policy import Identity, Policy
from containers.trust.statement import SIGNATURE

FOLDER = Path(__file__).parents[1] / "golden" / "trust"
WHO = "identities:\n  - name: ci\n    issuer: https://token.example\n    subject: https://github.com/org/*\n"
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
        (f"{KEY}require:\n  statements: []\n", "require.statements: "),
        (f"{KEY}require:\n  statments: []\n", "line 5: require.statments: .*did you mean statements"),
        (f"{KEY}require:\n  statements: [provenence]\n", "line 5: require.statements.0: 'provenence' is none of"),
        (f"{KEY}    statements: []\n", "line 4: keys.0.statements: "),
        (f"{WHO}    statements: []\ntrusted_root: public\n", "line 5: identities.0.statements: "),
        (f"{KEY}gate:\n  decisions: [good]\n", "line 5: gate.decisions.0"),
        (f"{KEY}max_age_days: soon\n", "line 4: max_age_days"),
        (f"{KEY}deny: [sha256:12]\n", "line 4: deny.0"),
        ("keys: []\n", "line 1: keys"),
        ("require: {}\n", "line 1: keys: nobody is trusted"),
        ("keys:\n  - name: a\n    fil: x\n", "line 3: keys.0.fil: .*did you mean file"),
        ("keys:\n  - name: a\n    file: missing.pub\n", "cannot read .*missing.pub"),
        ("keys:\n  - name: a\n    file: cosign.key\n", "line 2: keys.0: .*not a public key"),
        (f"{KEY}  - name: release\n    file: other.pub\n", "line 4: keys.1: 'release' is there twice"),
        (
            f"{KEY}base_images:\n  - repository: a\n    keys: [nobody]\n",
            "line 6: base_images.0.keys: no key or identity is named nobody",
        ),
        (f"{WHO}", "line 1: identities: no trusted_root says who vouches for them"),
        (f"{WHO}trusted_root: missing.json\n", "line 5: trusted_root: cannot read .*missing.json"),
        (f"{WHO}trusted_root: cosign.pub\n", "line 5: trusted_root: .*not JSON"),
        (f"{WHO}    until: soon\ntrusted_root: public\n", "line 5: identities.0.until"),
        (f"{WHO}    subjects: a\n", "line 5: identities.0.subjects: .*did you mean subject"),
        (WHO.replace("org/*", "org/*\n    statements: [verdit]"), "'verdit' is none of"),
        (WHO.replace("github.com", "*.com"), "line 2: identities.0: the subject must name its host or domain"),
        (WHO.replace("https://github.com/org/*", "'*'"), "must name its host or domain"),
        (WHO.replace("https://github.com/org/*", "someone@*"), "must name its host or domain"),
        (WHO.replace("https://github.com/org/*", "'*@refs/heads/main'"), "must name its host or domain"),
        (WHO.replace("https://github.com/org/*", "'*/ship.yaml'"), "must name its host or domain"),
        (WHO.replace("https://token.example", "https://*.example"), "the issuer is compared as it is"),
        (
            f"{KEY}{WHO.replace('name: ci', 'name: release')}trusted_root: public\n",
            "line 5: identities.0: 'release' is there",
        ),
        ("[]", "not a mapping"),
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


@pytest.mark.parametrize(
    ("pattern", "subject", "fits"),
    [
        ("https://github.com/org/*", "https://github.com/org/repo/.github/workflows/ship.yaml@refs/heads/main", True),
        ("https://github.com/org/*", "https://github.com/org-evil/repo", False),
        ("https://github.com/org/*", "https://evil.example/https://github.com/org/repo", False),
        ("https://github.com/org/repo", "https://github.com/org/repo-evil", False),
        ("https://github.com/org/repo", "https://github.com/org/rep", False),
        ("https://github.com/org/r?po", "https://github.com/org/repo", False),
        ("https://github.com/org/[r]epo", "https://github.com/org/repo", False),
        ("https://github.com/org/[r]epo", "https://github.com/org/[r]epo", True),
        ("https://github.com/org/Repo", "https://github.com/org/repo", False),
        ("*@example.com", "someone@example.com", True),
        ("*@example.com", "someone@example.com.evil.example", False),
        ("*@example.com", "someone@evil-example.com", False),
        ("someone@example.com", "xsomeone@example.com", False),
        ("*@example.com", "https://github.com/evil/r/.github/workflows/w.yaml@refs/heads/x@example.com", False),
    ],
)
def test_the_whole_of_a_subject_must_fit(pattern: str, subject: str, fits: bool) -> None:
    assert Identity(name="a", issuer="https://i", subject=pattern).fits(subject) is fits


def test_an_identity_is_held_against_the_time_of_signing() -> None:
    """What was signed in time stays trusted: the transparency log knows when that was."""
    one = Identity(name="a", issuer="i", subject="s", since=date(2026, 1, 1), until=date(2026, 6, 30))
    assert one.why_not(date(2026, 6, 30)) == ""
    assert "was trusted until 2026-06-30" in one.why_not(date(2026, 7, 1))
    assert "trusted from 2026-01-01" in one.why_not(date(2025, 12, 31))


def test_of_several_identities_that_fit_the_one_that_may_sign_counts() -> None:
    """A wide pattern for signatures hid the narrow one for provenance below it."""
    subject, issuer = "https://github.com/org/repo/ship.yaml@refs/heads/main", "https://token.example"
    wide = Identity(name="all", issuer=issuer, subject="https://github.com/org/*", statements=("signature",))
    narrow = Identity(name="ship", issuer=issuer, subject=subject, statements=("provenance",))
    found = Certified(b"", IN_TOTO, subject, issuer, datetime(2026, 1, 1, tzinfo=UTC))
    assert trusted_identity((wide, narrow), found, SIGNATURE) is wide
    assert trusted_identity((wide, narrow), found, PROVENANCE) is narrow
    assert trusted_identity((wide, narrow), found, BOM) == "'all' may not sign a bom"


def test_the_public_root_travels_with_the_policy() -> None:
    """As the installed library carries it; a step fetches nothing."""
    policy = Policy.parse(f"{WHO}trusted_root: public\n", "p", FOLDER)
    root = json.loads(Policy.load(policy.dump()).trusted_root)
    assert {one["uri"] for one in root["certificateAuthorities"]} == {"https://fulcio.sigstore.dev"}
