"""The canonical safetensors file: one set of tensors, one text, read back by the library itself."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from containers.quantize.layout import arrange, encode
from containers.safetensors import ITEM_SIZE

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
TENSORS = st.dictionaries(
    NAMES.filter(lambda name: name != "__metadata__"),
    st.tuples(
        st.sampled_from(["BF16", "F32", "F8_E4M3", "I64", "U8"]), st.lists(st.integers(0, 5), max_size=3).map(tuple)
    ),
    max_size=8,
)


def test_a_golden_file():
    """The bytes, written out by hand."""
    header = arrange([("b.weight_scale", "BF16", (4, 1)), ("a", "F32", (1,)), ("b.weight", "F8_E4M3", (4, 8))])
    expected = (
        b'{"__metadata__":{"format":"pt"},'
        b'"b.weight":{"dtype":"F8_E4M3","shape":[4,8],"data_offsets":[0,32]},'
        b'"b.weight_scale":{"dtype":"BF16","shape":[4,1],"data_offsets":[32,40]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[40,44]}}'
    )
    padded = expected + b" " * (-len(expected) % 8)
    assert encode(header.tensors) == len(padded).to_bytes(8, "little") + padded
    assert header.size == 8 + len(padded) + 44


@given(TENSORS, st.randoms())
def test_the_order_of_the_tensors_does_not_matter(tensors, order):
    """The same set gives the same bytes."""
    listed = [(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
    first = encode(arrange(listed).tensors)
    order.shuffle(listed)
    assert encode(arrange(listed).tensors) == first


@given(TENSORS)
def test_every_tensor_is_aligned_and_no_byte_is_lost(tensors):
    """Each starts at a multiple of its item size, right behind the one before, and the data at a multiple of 8."""
    header = arrange((name, dtype, shape) for name, (dtype, shape) in tensors.items())
    end = 0
    for tensor in header.tensors:
        assert tensor.start == end
        assert tensor.start % ITEM_SIZE[tensor.dtype] == 0
        end = tensor.stop
    front = encode(header.tensors)
    assert len(front) % 8 == 0
    assert header.data_start == len(front)
    assert json.loads(front[8:]).keys() == {"__metadata__", *tensors}


def test_a_weight_is_followed_by_its_scale():
    """Where every size is a multiple of 8, the order is that of the names: the file can be written in one pass."""
    shapes = {f"model.layers.{at}.mlp.up_proj.weight": (16, 32) for at in (0, 1, 10, 2)}
    tensors = [(name, "F8_E4M3", shape) for name, shape in shapes.items()]
    tensors += [(f"{name}_scale", "BF16", (16, 1)) for name in shapes]
    names = [tensor.name for tensor in arrange(tensors).tensors]
    assert names == sorted(names)
