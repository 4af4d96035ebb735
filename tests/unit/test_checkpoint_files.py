"""What a file of a checkpoint is for, by its name."""

from __future__ import annotations

import pytest

from containers.checkpoint_files import is_legal, is_licence, is_pickle


@pytest.mark.parametrize(
    "path",
    ["LICENSE", "LICENCE.md", "license.txt", "LICENSES.txt", "sub/COPYING", "MODEL_LICENSE.pdf", "LICENSE-MODEL"],
)
def test_licences(path: str) -> None:
    """They are legal text, too."""
    assert is_licence(path)
    assert is_legal(path)


@pytest.mark.parametrize(
    "path", ["Notice", "NOTICE.txt", "THIRD_PARTY_NOTICES.txt", "USE_POLICY.md", "use-policy.md", "Acceptable_Use.md"]
)
def test_other_legal_text(path: str) -> None:
    """It travels with the weights and is not the licence."""
    assert is_legal(path)
    assert not is_licence(path)


@pytest.mark.parametrize(
    "path", ["README.md", "config.json", "licensing.py", "LICENSE.json", "unlicensed.txt", "NOTICE/a.json"]
)
def test_what_is_not_legal_text(path: str) -> None:
    """A word inside a word, a folder's name, and what is no text do not count."""
    assert not is_legal(path)


def test_pickles() -> None:
    """By the last suffix, in upper case too; an index of pickles is none."""
    assert is_pickle("a/pytorch_model.BIN")
    assert is_pickle("x.ckpt")
    assert not is_pickle("pytorch_model.bin.index.json")
    assert not is_pickle("model.safetensors")
