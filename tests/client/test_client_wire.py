"""A message survives the wire, whatever it holds."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rope_client import wire
from rope_client.wire.message import DTYPES, Message

CODECS = pytest.mark.parametrize("codec", wire.CODECS.values(), ids=wire.CODECS.keys())

BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
"""Arrays are drawn as bits, so that every NaN, infinity and subnormal takes part."""


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if dtype == np.bool_:
        return draw(hnp.arrays(dtype, shape))
    return draw(hnp.arrays(BITS[dtype.itemsize], shape)).view(dtype)


messages = st.builds(
    Message,
    st.dictionaries(st.sampled_from(["q", "k", "v", "positions", "a name of µ"]), tensors()),
    st.dictionaries(
        st.sampled_from(["rope", "causal", "window"]),
        st.none() | st.booleans() | st.integers() | st.dictionaries(st.text(), st.text()),
    ),
)


def same(one, other):
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


@CODECS
@given(message=messages)
@settings(deadline=None, derandomize=True)
def test_a_message_comes_back_bit_for_bit(codec, message):
    back = codec.decode(codec.encode(message))

    assert back.params == message.params
    assert back.tensors.keys() == message.tensors.keys()
    assert all(same(back.tensors[name], each) for name, each in message.tensors.items())


@CODECS
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(12, dtype=">f4").reshape(3, 4),
        np.arange(12, dtype=">i8")[::-2],
        np.arange(12, dtype=ml_dtypes.bfloat16).reshape(3, 4)[:, 1:3],
    ],
    ids=["transposed", "big-endian", "reversed", "slice"],
)
def test_how_an_array_lies_in_memory_does_not_matter(codec, array):
    back = codec.decode(codec.encode(Message({"q": array}, {}))).tensors["q"]
    np.testing.assert_array_equal(back, array)


@CODECS
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.complex64, "U3", object])
def test_a_dtype_that_the_api_lacks_is_named(codec, dtype):
    with pytest.raises(TypeError, match=r"q must be one of float64, .*, got "):
        codec.encode(Message({"q": np.zeros(2, dtype)}, {}))


def test_arrays_of_an_answer_are_views_of_its_body():
    body = wire.safetensors_codec.encode(Message({"q": np.ones((2, 3), ml_dtypes.bfloat16)}, {}))
    q = wire.safetensors_codec.decode(body).tensors["q"]
    assert np.shares_memory(q, np.frombuffer(body, np.uint8))
    assert not q.flags.writeable


@given(message=messages)
@settings(deadline=None, derandomize=True)
def test_the_safetensors_library_reads_what_we_write(message):
    theirs = safetensors.torch.load(wire.safetensors_codec.encode(message))

    assert theirs.keys() == message.tensors.keys()
    for name, tensor in theirs.items():
        ours = message.tensors[name]
        assert tensor.shape == ours.shape
        assert str(tensor.dtype) == f"torch.{ours.dtype.name}"
        assert bytes(tensor.reshape(-1).view(torch.uint8).numpy()) == ours.tobytes()


def test_we_read_what_the_safetensors_library_writes():
    theirs = {
        "out": torch.randn(2, 3, dtype=torch.bfloat16),
        "lse": torch.randn(2),
        "none": torch.zeros(0, 4, dtype=torch.int32),
    }
    body = safetensors.torch.save(theirs, {"params": '{"attention_scaling": 1.0}'})
    message = wire.safetensors_codec.decode(body)

    assert message.params == {"attention_scaling": 1.0}
    for name, tensor in theirs.items():
        as_float = message.tensors[name].astype(np.float64)
        np.testing.assert_array_equal(as_float, tensor.double().numpy())


@given(message=messages)
@settings(deadline=None, derandomize=True)
def test_tensors_start_where_their_elements_are_aligned(message):
    for array in wire.safetensors_codec.decode(
        wire.safetensors_codec.encode(message)
    ).tensors.values():
        assert array.flags.aligned


def test_json_answers_may_be_flat_numbers():
    out = {"shape": [2, 1], "dtype": "bfloat16", "data": [1.5, -2.0]}
    message = wire.json_codec.decode(json.dumps({"out": out, "attention_scaling": 1.0}).encode())

    assert message.params == {"attention_scaling": 1.0}
    assert same(message.tensors["out"], np.array([[1.5], [-2.0]], ml_dtypes.bfloat16))
    seen = {"shape": [2, 1], "dtype": "bool", "data": [True, False]}
    message = wire.json_codec.decode(json.dumps({"mask": seen}).encode())
    assert same(message.tensors["mask"], np.array([[True], [False]]))


@pytest.mark.parametrize("codec", wire.CODECS.values(), ids=wire.CODECS.keys())
def test_an_answer_is_read_by_its_content_type(codec):
    assert wire.codec_for(codec.MEDIA_TYPE.upper() + " ; charset=utf-8") is codec
