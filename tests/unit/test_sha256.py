"""One digest on many cores: what a verification says is what hashlib says, whatever the midstates are."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.sha256 import STRETCH, Sha256, Verification, hash_file, verify_file

if TYPE_CHECKING:
    from pathlib import Path

    from containers.digest import Digest

CONTENT = bytes(range(251)) * (3 * STRETCH // 251 + 100)
SIZES = [0, 1, 64, STRETCH - 1, STRETCH, 2 * STRETCH - 1, 2 * STRETCH, 2 * STRETCH + 1, 3 * STRETCH + 777]


def hashed(content: bytes, piece: int = 1_000_003) -> Sha256:
    found = Sha256()
    for start in range(0, len(content), piece):
        found.update(memoryview(content)[start : start + piece])
    return found


_OF_ALL: Final = hashed(CONTENT[: 3 * STRETCH + 777])
REFERENCE: Final = (_OF_ALL.digest(), _OF_ALL.midstates)


def verified(content: bytes, digest: Digest, size: int, midstates: bytes, piece: int = 1_000_003) -> bool:
    check = Verification(digest, size, midstates)
    for start in range(0, len(content), piece):
        check.update(memoryview(content)[start : start + piece])
    return check.right()


def test_a_known_digest() -> None:
    """NIST's example of a million times "a" (FIPS 180-2, B.3)."""
    found = hashed(b"a" * 1_000_000, 999)
    assert found.digest().hex == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


@pytest.mark.parametrize("size", SIZES)
def test_one_pass_is_hashlibs_and_leaves_a_midstate_for_each_stretch(size: int) -> None:
    content = CONTENT[:size]
    found = hashed(content)
    assert found.digest().hex == hashlib.sha256(content).hexdigest()
    assert found.size == size
    assert len(found.midstates) == (size // STRETCH * 32 if size >= 2 * STRETCH else 0)
    assert verified(content, found.digest(), size, found.midstates)
    assert verified(content, found.digest(), size, b"")


def test_a_digest_may_be_asked_for_on_the_way() -> None:
    found = hashed(CONTENT[:1000])
    assert found.digest().hex == hashlib.sha256(CONTENT[:1000]).hexdigest()
    found.update(CONTENT[1000:5000])
    assert found.digest().hex == hashlib.sha256(CONTENT[:5000]).hexdigest()


@settings(max_examples=40)
@given(st.integers(0, 3 * STRETCH + 776), st.sampled_from([64 << 10, STRETCH, 3 * STRETCH]))
def test_any_other_byte_is_wrong(at: int, piece: int) -> None:
    content = CONTENT[: 3 * STRETCH + 777]
    digest, midstates = REFERENCE
    other = bytearray(content)
    other[at] ^= 1
    assert not verified(bytes(other), digest, len(content), midstates, piece)


@pytest.mark.parametrize("change", [-STRETCH, -777, -1, 1, STRETCH])
def test_more_or_fewer_bytes_are_wrong(change: int) -> None:
    size = 3 * STRETCH + 777
    digest, midstates = REFERENCE
    other = (CONTENT + bytes(2 * STRETCH))[: size + change]
    assert not verified(other, digest, size, midstates)
    assert not verified(other, digest, len(other), midstates)


def test_midstates_of_other_bytes_prove_nothing() -> None:
    """Who can write a blob can write what lies beside it."""
    content = CONTENT[: 3 * STRETCH + 777]
    forged = b"x" + content[1:]
    digest, _ = REFERENCE
    told: list[str] = []
    check = Verification(digest, len(content), hashed(forged).midstates, lambda: told.append("wrong"))
    check.update(forged)
    assert not check.right()
    assert told == ["wrong"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_wrong_midstate_is_found_and_said(number: int) -> None:
    content = CONTENT[: 3 * STRETCH + 777]
    digest, midstates = REFERENCE
    wrong = bytearray(midstates)
    wrong[number * 32] ^= 1
    told: list[str] = []
    check = Verification(digest, len(content), bytes(wrong), lambda: told.append("wrong"))
    check.update(content)
    assert not check.right()
    assert told == ["wrong"]


@pytest.mark.parametrize("midstates", [b"", b"x", bytes(64), bytes(128)])
def test_midstates_of_another_number_are_not_used(midstates: bytes) -> None:
    content = CONTENT[: 3 * STRETCH + 777]
    assert verified(content, REFERENCE[0], len(content), midstates)


def test_lengths_beyond_32_bits() -> None:
    """SHA-256 counts bits, and OpenSSL in two halves: the second one is needed from 512 MiB on."""
    zeros, count = bytes(STRETCH), (1 << 29) // STRETCH + 1
    found, plain = Sha256(), hashlib.sha256()
    for _ in range(count):
        found.update(zeros)
        plain.update(zeros)
    assert found.digest().hex == plain.hexdigest()
    check = Verification(found.digest(), count * STRETCH, found.midstates)
    for _ in range(count):
        check.update(zeros)
    assert check.right()


def test_many_at_once() -> None:
    content = CONTENT[: 3 * STRETCH + 777]
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda _: verified(content, REFERENCE[0], len(content), REFERENCE[1]), range(36)))


@pytest.mark.parametrize("size", SIZES[5:])
def test_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:size])
    found = hash_file(path)
    assert found.digest().hex == hashlib.sha256(CONTENT[:size]).hexdigest()
    told: list[int] = []
    with path.open("rb") as file:
        right = verify_file(file.fileno(), size, found.digest(), found.midstates, told.append)
    assert right == (size >= 2 * STRETCH)  # else nothing was read
    assert sum(told) == (size if right else 0)


@pytest.mark.parametrize("change", [b"other", b"longer", b"shorter"])
def test_a_file_that_has_changed(tmp_path: Path, change: bytes) -> None:
    content = CONTENT[: 3 * STRETCH + 777]
    contents = {b"other": b"x" + content[1:], b"longer": content + b"x", b"shorter": content[:-1]}
    path = tmp_path / "file"
    path.write_bytes(contents[change])
    with path.open("rb") as file:
        assert not verify_file(file.fileno(), len(content), *REFERENCE)


def test_an_interpreter_without_openssl_hashes_in_one_pass() -> None:
    """As those that have hashlib built in, or hide what it is linked to."""
    program = """
import hashlib, sys
sys.modules["_hashlib"] = None
from containers.sha256 import STRETCH, Sha256, Verification
content = bytes(range(256)) * (3 * STRETCH // 256)
found = Sha256()
found.update(content)
assert found.digest().hex == sys.argv[1], found.digest()
assert found.midstates == b""
check = Verification(found.digest(), len(content), bytes(96))
check.update(content)
assert check.right()
"""
    digest = hashlib.sha256(bytes(range(256)) * (3 * STRETCH // 256)).hexdigest()
    subprocess.run([sys.executable, "-c", program, digest], check=True, timeout=60)
