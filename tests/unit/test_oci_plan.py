"""Which files share a layer is a function of paths, sizes and limits."""

from __future__ import annotations

import random  # noqa: TC003 -- hypothesis reads the annotation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.errors import BadInput
from containers.oci.layer import LayerFile
from containers.oci.plan import group_files

GB = 1_000_000_000


def _shards(count: int, size: int = 4 * GB) -> list[LayerFile]:
    return [LayerFile(f"model-{number:05}-of-{count:05}.safetensors", size) for number in range(1, count + 1)]


def test_few_files_have_a_layer_each() -> None:
    """Up to the limit nothing is grouped, and the order is that of the paths."""
    files = [LayerFile("b", 1), LayerFile("a", 2), LayerFile("B", 3)]
    assert group_files(files) == ((LayerFile("B", 3),), (LayerFile("a", 2),), (LayerFile("b", 1),))


def test_small_files_are_grouped_first() -> None:
    """1,000 small files share one layer; the two shards keep theirs."""
    files = [LayerFile(f"assets/{number:04}.json", 1000) for number in range(1000)] + _shards(2)
    groups = group_files(files, limit=120)
    assert [len(group) for group in groups] == [1000, 1, 1]


def test_191_shards_fit_into_120_layers() -> None:
    """The 405B checkpoint: neighbouring shards in pairs, small files in one layer, nothing lost."""
    files = [*_shards(191), LayerFile("config.json", 900), LayerFile("tokenizer.json", 9_000_000)]
    groups = group_files(files, limit=120)
    assert len(groups) <= 120
    assert sorted(file for group in groups for file in group) == sorted(files)
    shards = [group for group in groups if group[0].path.startswith("model-")]
    assert {len(group) for group in shards} == {1, 2}
    assert shards[0] == tuple(_shards(191)[:2])


def test_files_of_64_mib_are_small_and_larger_ones_are_not() -> None:
    """Small ones share a layer up to 1 GiB; that of a larger file is its own as long as there is room."""
    mib = 1 << 20
    files = [LayerFile(f"a{number:02}", 64 * mib) for number in range(17)] + [LayerFile("b", 64 * mib + 1)]
    assert [len(group) for group in group_files(files, limit=17)] == [16, 1, 1]


def test_one_layer_is_enough_for_small_files() -> None:
    files = [LayerFile("a", 1), LayerFile("b", 2)]
    assert group_files(files, limit=1) == (tuple(files),)
    with pytest.raises(BadInput, match="at least one layer"):
        group_files(files, limit=0)


def test_registry_limits() -> None:
    """No layer is larger than the registry takes, and one may be as large; what cannot fit is refused."""
    assert len(group_files(_shards(2), layer_bytes=4 * GB)) == 2
    groups = group_files(_shards(150), limit=120, layer_bytes=8 * GB)
    assert max(sum(file.size for file in group) for group in groups) <= 8 * GB
    with pytest.raises(BadInput, match="do not fit"):
        group_files(_shards(150), limit=120, layer_bytes=7 * GB)
    with pytest.raises(BadInput, match="accepts in one layer"):
        group_files(_shards(1), layer_bytes=4 * GB - 1)


def test_the_same_path_twice() -> None:
    """Two files of one path cannot be told apart in a layer."""
    with pytest.raises(BadInput, match="occurs twice"):
        group_files([LayerFile("a", 1), LayerFile("a", 2)])


@given(
    st.dictionaries(st.text("abc/", min_size=1, max_size=6), st.integers(0, 20 << 20), max_size=60),
    st.integers(1, 40),
    st.randoms(),
)
def test_order_does_not_matter(sizes: dict[str, int], limit: int, rng: random.Random) -> None:
    """Any order of the same files gives the same groups, each file once, never more groups than the limit."""
    files = [LayerFile(path, size) for path, size in sizes.items()]
    shuffled = rng.sample(files, len(files))
    try:
        groups = group_files(files, limit=limit)
    except BadInput:
        with pytest.raises(BadInput):
            group_files(shuffled, limit=limit)
        return
    assert groups == group_files(shuffled, limit=limit)
    assert sorted(file for group in groups for file in group) == sorted(files)
    assert len(groups) <= limit
