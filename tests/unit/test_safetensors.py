"""Headers of safetensors files: sound ones are read, everything else is bad input, in little time and memory."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput
from containers.parameters import QuantizeParameters
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.preflight import prepare
from containers.safetensors import Tensor, read_header
from tests.support.checkpoints import ends, layer, write

if TYPE_CHECKING:
    from pathlib import Path


def _tensor(shape: Any = (2,), start: Any = 0, stop: Any = 8, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [start, stop]}


def _file(header: Any, data: int = 8) -> tuple[bytes, int]:
    """The front of a file, and how long the file is said to be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + data


_WHOLE = {"a": _tensor()}
_TWICE = b'{"a":%s,"a":%s}' % ((json.dumps(_tensor()).encode(),) * 2)
_REPEATED = b"{" + b",".join([b'"a":{}'] * 30_000) + b"}"

# The front of a file, its size, and what is said about it.
ATTACKS: dict[str, tuple[tuple[bytes, int], str]] = {
    "an empty file": ((b"", 0), "is cut off"),
    "a length that is cut off": ((b"\x02\0\0", 3), "is cut off"),
    "a length of nothing": ((bytes(8), 8), "0 bytes, in a file of 8"),
    "a length beyond the file": (((1 << 20).to_bytes(8, "little") + b"{}", 10), "in a file of 10"),
    "a length of 64 bits": ((b"\xff" * 8 + b"{}", 10), "in a file of 10"),
    "a length of 33 MB in a file of a petabyte": (((33 << 20).to_bytes(8, "little"), 1 << 50), "at most 33554432"),
    "a length of 99 MB": (((99_000_000).to_bytes(8, "little"), 200_000_000), "at most 33554432"),
    "a header that is cut off": ((_file(_WHOLE)[0][:20], _file(_WHOLE)[1]), "is cut off"),
    "a list": (_file([]), "not a JSON object"),
    "no JSON": (_file(b"{a:1}"), "is not JSON"),
    "one name twice": (_file(_TWICE), "names a twice"),
    "one name thirty thousand times": (_file(_REPEATED), "names a twice"),
    "one key of a tensor twice": (_file(b'{"a":{"dtype":"U8","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "dtype twice"),
    "five million dimensions": (_file(b'{"a":{"dtype":"U8","shape":[' + b"1," * 5_000_000 + b'1],"data_offsets":[0,1]}}'), "values"),
    "65 dimensions": (_file({"a": _tensor((1,) * 64 + (2,))}), "65 dimensions"),
    "a side of a hundred digits": (_file({"a": _tensor((10**99,))}), "not safetensors"),
    "a side of five thousand digits": (_file(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}'), "digits"),
    "a side beyond 64 bits": (_file({"a": _tensor((2**63,))}), "not safetensors"),
    "sides whose product is 8 in 64 bits": (_file({"a": _tensor((2**32, 2**32, 2), stop=8)}), "needs others"),
    "a negative side": (_file({"a": _tensor((-2,), stop=8)}), "not safetensors"),
    "two negative sides": (_file({"a": _tensor((-1, -2))}), "not safetensors"),
    "a side that is a fraction": (_file({"a": _tensor((2.0,))}), "not safetensors"),
    "a side that is true": (_file({"a": _tensor((True, 2))}), "not safetensors"),
    "a side that is NaN": (_file(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), "NaN"),
    "a shape that is a text": (_file({"a": _tensor("22")}), "not safetensors"),
    "a shape that is an object": (_file({"a": _tensor({}, stop=4)}, 4), "not safetensors"),
    "a shape that is null": (_file({"a": _tensor(None)}), "not safetensors"),
    "no shape": (_file({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "not safetensors"),
    "no type": (_file({"a": {"shape": [2], "data_offsets": [0, 8]}}), "not safetensors"),
    "a type that is none": (_file({"a": _tensor(dtype="F31")}), "has the type F31, which is not supported"),
    "a type that is a list": (_file({"a": _tensor(dtype=["F32"])}), "not safetensors"),
    "a type of a megabyte": (_file({"a": _tensor(dtype="F" * 1_000_000)}), "not supported"),
    "a tensor that is a number": (_file({"a": 1}), "not safetensors"),
    "three offsets": (_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}), "not safetensors"),
    "offsets backwards": (_file({"a": _tensor(start=8, stop=0)}), "needs others"),
    "a negative offset": (_file({"a": _tensor(start=-8, stop=0)}), "not safetensors"),
    "offsets beyond 64 bits": (_file({"a": _tensor(start=2**64, stop=2**64 + 8)}), "not safetensors"),
    "offsets beyond the file": (_file({"a": _tensor((2**40,), stop=2**42)}), "should have"),
    "offsets that are texts": (_file({"a": _tensor(start="0", stop="8")}), "not safetensors"),
    "two tensors in the same bytes": (_file({"a": _tensor(), "b": _tensor()}), "an overlap"),
    "two tensors that overlap": (_file({"a": _tensor(), "b": _tensor(start=4, stop=12)}, 12), "an overlap"),
    "a hole in front": (_file({"a": _tensor(start=4, stop=12)}, 12), "a hole"),
    "a hole between": (_file({"a": _tensor(), "b": _tensor(start=9, stop=17)}, 17), "a hole"),
    "bytes behind the last tensor": (_file(_WHOLE, 9), "should have"),
    "a byte too few": (_file(_WHOLE, 7), "should have"),
    "nothing but bytes": (_file({}, 8), "should have"),
    "a name of two thousand characters": (_file({"n" * 2000: _tensor()}), "too long or not printable"),
    "a name that moves the cursor": (_file({"\x1b[2Ja": _tensor()}), "too long or not printable"),
    "a name with a line break": (_file({"a\nerror: b": _tensor()}), "too long or not printable"),
    "a name that reads backwards": (_file({"a\u202eb": _tensor()}), "too long or not printable"),
    "half of a surrogate pair": (_file(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "surrogate"),
    "metadata that is a list": (_file({"__metadata__": [], **_WHOLE}), "__metadata__"),
    "metadata with a number": (_file({"__metadata__": {"format": 1}, **_WHOLE}), "__metadata__"),
    "metadata that is nested": (_file({"__metadata__": {"a": {"b": "c"}}, **_WHOLE}), "__metadata__"),
    "metadata that is deep": (_file(b'{"__metadata__":' + b"[" * 5000 + b"]" * 5000 + b"}"), "nested"),
    "millions of brackets": (_file(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"), "values"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_bad_input(attack: str) -> None:
    """The file is named, and the sentence is short whatever is in it."""
    (front, size), says = ATTACKS[attack]
    with pytest.raises(BadInput, match=says) as caught:
        read_header(io.BytesIO(front), "model.safetensors", size)
    assert "model.safetensors" in caught.value.message
    assert len(caught.value.message) < 1000


def test_a_sound_header() -> None:
    """Metadata aside, tensors in the order of their bytes; a scalar, and a tensor of nothing."""
    front, size = _file(
        {
            "__metadata__": {"format": "pt"},
            "b": _tensor((2, 1), 4, 12),
            "a": _tensor((), 0, 4),
            "nothing": _tensor((0, 2**62), 12, 12),
        },
        12,
    )
    header = read_header(io.BytesIO(front + bytes(12)), "x", size)
    assert header.tensors == (
        Tensor("a", "F32", (), 0, 4),
        Tensor("b", "F32", (2, 1), 4, 12),
        Tensor("nothing", "F32", (0, 2**62), 12, 12),
    )
    assert (header.data_start, header.size) == (len(front), size)


def test_a_mixture_of_experts_in_one_file() -> None:
    """As many tensors as the largest published ones have (61 layers of 384 experts with three matrices, and scales)."""
    content = {}
    for number in range(140_000):
        name = f"model.layers.{number % 61}.mlp.experts.{number // 61}.gate_up_proj.weight_scale_inv"
        content[name] = _tensor((16, 56), number * 3584, (number + 1) * 3584)
    front, size = _file(content, 140_000 * 3584)
    assert len(front) < 32 << 20
    assert len(read_header(io.BytesIO(front), "x", size).tensors) == 140_000


EXPERTS: dict[str, tuple[int, ...]] = {
    "experts of nothing": (2**40, 2, 0),
    "no experts": (0, 2, 2),
    "more experts than there are": (5000, 2, 2),
}


@pytest.mark.parametrize("attack", EXPERTS)
def test_experts_beyond_counting(tmp_path: Path, attack: str) -> None:
    """A tensor that would become billions of them, and takes no space."""
    shapes = ends() | layer(0) | {"model.layers.0.mlp.experts.gate_up_proj": EXPERTS[attack]}
    with pytest.raises(BadInput, match="experts"):
        prepare(FolderFiles(write(tmp_path, [shapes], sparse=True)), QuantizeParameters(), {})


_WORST = {
    "one name in a header": 'b"{" + b",".join([b\'"a":1\'] * (1 << 20)) + b"}"',
    "empty lists": 'b\'{"a":[\' + b"[]," * ((1 << 20) - 8) + b"[]]}"',
    "objects of one": 'b\'{"a":[\' + b\'{"":0},\' * ((1 << 20) - 8) + b"0]}"',
    "a wide character and a long text": "('{\"a\":\"\U0001f600' + 'x' * (33_000_000) + '\"}').encode()",
    "brackets": 'b"[" * 33_000_000',
}


@pytest.mark.parametrize("worst", _WORST)
def test_the_worst_stays_within_memory(worst: str) -> None:
    """A process that may have no more than 900 MB of addresses answers as always (before: 3 GB and more)."""
    program = (
        "import io\nfrom containers.errors import BadInput\nfrom containers.safetensors import read_header\n"
        f"text = {_WORST[worst]}\n"
        "try:\n    read_header(io.BytesIO(len(text).to_bytes(8, 'little') + text), 'x', 8 + len(text))\n"
        "except BadInput as error:\n    print(error.message[:80])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("x ", "the header of x "))
