"""models.yaml: what it may say, and that every mistake is named with its line and field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from flows.watching.models import SHIPPED, load
from flows.watching.scan import newest_tag

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
models:
  - name: one
    model: hf://org/one
    targets: [registry.example.com/models/one]
  - name: two
    model: hf://org/two
    revision: {tag: "v*"}
    recipe: {scheme: FP8_DYNAMIC}
    targets:
      - registry.example.com/models/two
      - oci:/images/two
    base: quay.io/org/base:9
    suite: smoke
    max_model_len: 4096
    deployment: quantize-and-ship/gpu
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    one, two = load(write(tmp_path, GOOD))
    assert (one.repository, str(one.revision), one.recipe.scheme, one.base) == (
        "org/one",
        "main",
        "FP8_DYNAMIC",
        "minimal",
    )
    assert (str(two.revision), len(two.targets), two.deployment) == ("tag v*", 2, "quantize-and-ship/gpu")


def test_the_file_that_ships_fits() -> None:
    assert load() == load(SHIPPED) != ()


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("    modle: hf://org/one", "    model: hf://org/one", ":3: models.0.modle: there is no such field; did you mean 'model'?"),
        ("    recipe: {shceme: X}", "    recipe: {scheme: FP8_DYNAMIC}", ":8: models.1.recipe.shceme: there is no such field; did you mean 'scheme'?"),
        ("    model: org/two", "    model: hf://org/two", ":6: models.1.model: "),
        ('    revision: {tag: "v*", branch: main}', '    revision: {tag: "v*"}', ":7: models.1.revision: give exactly one of branch, tag and commit"),
        ("    revision: {commit: abc}", '    revision: {tag: "v*"}', ":7: models.1.revision.commit: "),
        ("    targets: [registry.example.com/models/one:v1]", "    targets: [registry.example.com/models/one]", ":4: models.0.targets.0: a target has no tag"),
        ("      - Oci:/x", "      - oci:/images/two", ":11: models.1.targets.1: "),
        ("    max_model_len: many", "    max_model_len: 4096", ":14: models.1.max_model_len: "),
        ("    deployment: nowhere", "    deployment: quantize-and-ship/gpu", ":15: models.1.deployment: "),
        ("  - name: one", "  - name: two", ":1: the file: two models are named 'one'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_line_and_field(tmp_path: Path, wrong: str, right: str, said: str) -> None:
    assert right in GOOD
    path = write(tmp_path, GOOD.replace(right, wrong, 1))
    with pytest.raises(BadInput) as caught:
        load(path)
    assert f"{path}{said}" in caught.value.message


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load(write(tmp_path, GOOD.replace("suite:", "siute:").replace("model: hf://org/one", "model: nothing")))
    assert len(caught.value.message.splitlines()) == 2


def test_one_mistake_is_one_complaint(tmp_path: Path) -> None:
    """A list whose only entry is wrong is not called too short besides."""
    wrong = "targets: [registry.example.com/models/one:v1]"
    with pytest.raises(BadInput) as caught:
        load(write(tmp_path, GOOD.replace("targets: [registry.example.com/models/one]", wrong)))
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [}", ":1: not YAML"),
        (GOOD.replace("    base: quay.io/org/base:9", "    name: three"), ":12: duplicate key 'name'"),
        ("", ":1: the file: "),
        ("- name: one", ":1: the file: "),
    ],
)
def test_what_is_no_such_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert f"{path}{said}" in caught.value.message


def test_two_lines_for_one_product_are_refused(tmp_path: Path) -> None:
    """They would take turns at one place, and each would undo the other."""
    double = GOOD.replace("hf://org/two", "hf://org/one").replace(
        "      - oci:/images/two", "      - registry.example.com/models/one"
    )
    with pytest.raises(BadInput, match="'two' and 'one' ship the same model and recipe"):
        load(write(tmp_path, double))


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="CARWRIGHT_WATCH__MODELS"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("tags", "pattern", "expected"),
    [
        (["v1.9", "v1.10", "v1.2"], "v*", "v1.10"),
        (["v1.0", "v2.0rc1", "other"], "*", "v2.0rc1"),
        (["2024-08", "2025-01-b", "2025-01-a"], "2025-*", "2025-01-b"),
        (["v1"], "w*", None),
        ([], "*", None),
    ],
)
def test_the_newest_tag(tags: list[str], pattern: str, expected: str | None) -> None:
    assert newest_tag(tags, pattern) == expected
