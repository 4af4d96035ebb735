"""What the step writes, held against llm-compressor itself, which runs beside it in the step's own environment."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.quantize_client import Lab, environment

pytestmark = pytest.mark.integration

MODELS = (
    "llama",
    "llama-tied",
    "llama-shards",
    "qwen2-biases",
    "mixtral",
    "qwen2-moe",
    "fused-moe",
    "odd",
    "odd-rows",
    "half",
    "float",
    "large-blocks",
    "large-rows",
)
UNFIT = {
    ("odd", "FP8_BLOCK"),
    ("large-rows", "FP8_BLOCK"),
}  # columns that are not a multiple of 128: vLLM takes none
CASES = [
    (model, scheme)
    for scheme in ("FP8_DYNAMIC", "FP8_BLOCK", "W8A8")
    for model in MODELS
    if (model, scheme) not in UNFIT
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    found = Lab(environment(), tmp_path_factory.mktemp("lab") / "log")
    yield found
    found.close()


@pytest.mark.parametrize(("model", "scheme"), CASES)
def test_every_byte_is_llm_compressors(lab, tmp_path, model, scheme):
    """Tensors to the bit, config.json to the letter, the index to the entry; digests computed on the way are true."""
    found = lab.ask("identity", model=model, scheme=scheme, folder=str(tmp_path))
    assert found["scales"] > 0
    assert found["missing"] == []
    assert found["different"] == []
    theirs, ours = found["configs"]
    assert ours == theirs
    theirs, ours = found["indexes"]
    assert ours == (theirs if len(found["digests"]) > 1 else None)  # llm-compressor writes one for a single shard, too
    assert theirs is not None
    assert all(said == true for said, true in found["digests"].values())


def numbers(dtype: str) -> st.SearchStrategy[int]:
    """Bit patterns of finite numbers: any of them, and often the ones where arithmetic has its edges."""
    if dtype == "F32":
        edges = [0, 1 << 31, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000]
        usual = st.floats(-4, 4, width=32).map(lambda number: struct.unpack("<I", struct.pack("<f", number))[0])
        everything = st.integers(0, (1 << 32) - 1).filter(lambda bits: bits >> 23 & 0xFF != 0xFF)
    elif dtype == "BF16":
        edges = [0, 0x8000, 1, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x3F80]
        usual = st.integers(0x3C00, 0x4080) | st.integers(0xBC00, 0xC080)
        everything = st.integers(0, 0xFFFF).filter(lambda bits: bits >> 7 & 0xFF != 0xFF)
    else:
        edges = [0, 0x8000, 1, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00]
        usual = st.integers(0x2C00, 0x4400) | st.integers(0xAC00, 0xC400)
        everything = st.integers(0, 0xFFFF).filter(lambda bits: bits >> 10 & 0x1F != 0x1F)
    return st.sampled_from(edges) | usual | everything


@st.composite
def weights(draw):
    """A weight row by row: rows of any numbers, of zeros of either sign, of one number alone."""
    dtype = draw(st.sampled_from(["BF16", "F16", "F32"]))
    scheme = draw(st.sampled_from(["FP8_DYNAMIC", "FP8_BLOCK", "W8A8"]))
    columns = 128 if scheme == "FP8_BLOCK" else draw(st.integers(1, 24))
    one = numbers(dtype)
    zero = st.sampled_from([0, 1 << (31 if dtype == "F32" else 15)])
    row = st.lists(one, min_size=columns, max_size=columns) | st.lists(zero, min_size=columns, max_size=columns)
    rows = draw(st.lists(row | one.map(lambda number: [number] * columns), min_size=1, max_size=6))
    code = "I" if dtype == "F32" else "H"
    return scheme, dtype, columns, struct.pack(f"<{len(rows) * columns}{code}", *(bits for row in rows for bits in row))


@settings(max_examples=150)
@given(weights())
def test_any_finite_value_is_quantized_to_the_same_bits(lab, weight):
    """Subnormals, both zeros, the largest and the smallest numbers, whole rows of zeros; no scale is 0 or worse."""
    scheme, dtype, columns, data = weight
    found = lab.ask("values", scheme=scheme, dtype=dtype, columns=columns, data=base64.b64encode(data).decode())
    assert found["ours"] == found["theirs"]
    assert found["sound"]
    assert found["smallest_scale"] > 0


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0], ids=["inf", "-inf", "nan"])
@pytest.mark.parametrize("scheme", ["FP8_DYNAMIC", "FP8_BLOCK", "W8A8"])
def test_infinite_values_and_nan_are_noticed(lab, scheme, bits):
    """Wherever they stand in a row."""
    for at in (0, 77, 127):
        row = [0x3F80] * 128
        row[at] = bits
        data = base64.b64encode(struct.pack("<256H", *([0x3F80] * 128), *row)).decode()
        assert not lab.ask("values", scheme=scheme, dtype="BF16", columns=128, data=data)["sound"]


PARTS = st.sampled_from(
    [
        "model",
        "layers",
        "0",
        "1",
        "self_attn",
        "q_proj",
        "gate_proj",
        "input_layernorm",
        "norm",
        "embed_tokens",
        "lm_head",
        "visual",
    ]
)
NAMES = st.builds(
    lambda parts, leaf: ".".join([*parts, leaf]),
    st.lists(PARTS, min_size=0, max_size=5),
    st.sampled_from(["weight", "bias", "inv_freq", "weight_scale"]),
)
ENTRIES = st.sampled_from(
    [
        "lm_head",
        "model.layers.0.self_attn.q_proj",
        "re:.*embed_tokens.*",
        "re:.*q_proj$",
        r"re:model\.layers\.[01]",
        "norm",
    ]
)


@given(st.lists(NAMES, unique=True, max_size=12), st.lists(ENTRIES, unique=True, max_size=4))
def test_the_choice_of_tensors_is_compressed_tensors_own(lab, names, ignore):
    """The rules are written out in the step, so that planning needs no torch; here they meet the original."""
    found = lab.ask("match", names=names, ignore=ignore)
    assert found["ours"] == found["theirs"]
