"""A call that does not fit is refused with a problem document that names what is wrong."""

import pytest
import torch

from service.wire import Message, Parameters
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import check_problem

pytestmark = every_test_in_one_loop

Q = torch.zeros(1, 2, 4, 8)
K = torch.zeros(1, 2, 2, 8)
PACKED = torch.zeros(4, 2, 8)


@pytest.fixture
def client(shared_client):
    return shared_client


def cu(*values: int) -> torch.Tensor:
    return torch.tensor(values)


ROTATE = [  # tensors, params, status, code, words of the detail
    ({}, {}, 422, "shape", "missing required tensor 'q' or 'k'"),
    ({"q": torch.zeros(8)}, {}, 422, "shape", "q must be [B, S, H, D]"),
    ({"q": torch.zeros(())}, {}, 422, "config", "head_dim"),
    (
        {"q": torch.zeros(8), "positions": torch.tensor(3)},
        {},
        422,
        "shape",
        "q must be [B, S, H, D]",
    ),
    ({"q": torch.zeros(1, 2, 3, 4, 8)}, {}, 422, "shape", "q must be [B, S, H, D]"),
    ({"q": Q.long()}, {}, 422, "shape", "q must be float32"),
    ({"q": Q.double()}, {}, 422, "shape", "q must be float32"),
    ({"q": torch.zeros(1, 2, 4, 7)}, {}, 422, "config", "rotary_dim must be even"),
    ({"q": torch.zeros(1, 2, 4, 0)}, {}, 422, "config", "head_dim"),
    ({"q": torch.zeros(1, 2, 0, 8)}, {}, 422, "shape", "at least one head"),
    ({"q": Q, "k": K.half()}, {}, 422, "shape", "k must be"),
    ({"q": Q, "k": K[:, :1]}, {}, 422, "shape", "k must be"),
    ({"q": Q, "x": Q}, {}, 422, "unknown", "unknown tensor x"),
    ({"q": Q, "positions": cu(0, 1, 2)}, {}, 422, "shape", "positions must be [2] or [1, 2]"),
    ({"q": Q, "positions": torch.zeros(2).half()}, {}, 422, "shape", "positions must be int64"),
    ({"q": Q, "cu_seqlens": cu(0, 2)}, {}, 422, "shape", "cu_seqlens must be absent"),
    ({"q": PACKED, "cu_seqlens": cu(0, 3)}, {}, 422, "shape", "cu_seqlens must be from 0 to 4"),
    ({"q": PACKED, "cu_seqlens": cu(0, 3, 1, 4)}, {}, 422, "shape", "non-decreasing"),
    ({"q": PACKED, "cu_seqlens": cu()}, {}, 422, "shape", "cu_seqlens"),
    ({"q": Q}, {"inverze": True}, 422, "unknown", "inverze"),
    ({"q": Q}, {"inverse": "yes"}, 422, "config", "inverse must be a valid boolean"),
    ({"q": Q}, {"inverse": 1}, 422, "config", "inverse"),
    ({"q": Q}, {"rope": None}, 422, "config", "rope"),
    ({"q": Q}, {"rope": "llama"}, 422, "config", "rope"),
    ({"q": Q}, {"rope": {"theta": 0}}, 422, "config", "theta must be finite"),
    ({"q": Q}, {"rope": {"theta": -1}}, 422, "config", "theta"),
    ({"q": Q}, {"rope": {"theta": 1e308}}, 422, "config", "theta"),
    ({"q": Q}, {"rope": {"theta": 1e-320}}, 422, "config", "theta"),
    ({"q": Q}, {"rope": {"theta": "10000"}}, 422, "config", "rope.theta"),
    ({"q": Q}, {"rope": {"theta": True}}, 422, "config", "rope.theta"),
    ({"q": Q}, {"rope": {"theta": None}}, 422, "config", "rope.theta"),
    ({"q": Q}, {"rope": {"layout": "neox"}}, 422, "config", "rope.layout"),
    ({"q": Q}, {"rope": {"rotary_dim": 3}}, 422, "config", "rotary_dim must be even"),
    ({"q": Q}, {"rope": {"rotary_dim": 0}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"rotary_dim": 10}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"rotary_dim": -2}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"rotary_dim": 2**63}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"head_dim": 16}}, 422, "shape", "q must be of head_dim 16"),
    ({"q": Q}, {"rope": {"head_dim": 0}}, 422, "config", "head_dim"),
    ({"q": Q}, {"rope": {"rope_type": "yarm"}}, 422, "config", "rope.rope_type"),
    ({"q": Q}, {"backend": "eager"}, 422, "config", "backend must be absent: the operator"),
    ({"q": Q}, {"rope": {"base": 1e4}}, 422, "unknown", "rope.base"),
]
QKV = {"q": Q, "k": K, "v": K}
ATTENTION = [
    ({"q": Q}, {}, 422, "shape", "missing required tensor 'k'"),
    ({**QKV, "v": K[:, :1]}, {}, 422, "shape", "v must be of k's shape"),
    ({**QKV, "k": torch.zeros(1, 2, 3, 8)}, {}, 422, "shape", "v must be"),
    (
        dict.fromkeys("kv", torch.zeros(1, 2, 3, 8)) | {"q": Q},
        {},
        422,
        "shape",
        "multiple of k's 3",
    ),
    (dict.fromkeys("kv", torch.zeros(1, 2, 0, 8)) | {"q": Q}, {}, 422, "shape", "k must be"),
    (dict.fromkeys("kv", torch.zeros(1, 2, 2, 6)) | {"q": Q}, {}, 422, "shape", "k must be"),
    (
        dict.fromkeys("kv", torch.zeros(2, 2, 2, 8)) | {"q": Q},
        {},
        422,
        "shape",
        "k must be of q's batch size",
    ),
    ({**QKV, "v": K.half()}, {}, 422, "shape", "q, k and v"),
    (
        {**QKV, "positions": cu(0, 1), "q_positions": cu(0, 1)},
        {},
        422,
        "shape",
        "'positions' cannot be combined with 'q_positions' or 'k_positions'",
    ),
    ({**QKV, "cu_seqlens_q": cu(0, 2)}, {}, 422, "shape", "cu_seqlens"),
    (QKV, {"causal": "yes"}, 422, "config", "causal"),
    (QKV, {"window": 0}, 422, "config", "window"),
    (QKV, {"window": -1}, 422, "config", "window"),
    (QKV, {"window_ahead": 1}, 422, "config", "window_ahead must be 0 unless there is a window"),
    (QKV, {"window_ahead": 1, "window": 2}, 422, "config", "window_ahead must be 0"),
    (QKV, {"window_ahead": None}, 422, "config", "window_ahead"),
    (QKV, {"window_ahead": -1}, 422, "config", "window_ahead"),
    (QKV, {"chunk": 0}, 422, "config", "chunk must be in [1"),
    (QKV, {"chunk": 1.5}, 422, "config", "chunk"),
    (QKV, {"chunk": 2**63}, 422, "config", "chunk"),
    ({**QKV, "sinks": torch.zeros(3)}, {}, 422, "shape", "sinks must be [4]"),
    ({**QKV, "sinks": torch.zeros(4).double()}, {}, 422, "shape", "sinks must be float32"),
    ({**QKV, "sinks": torch.zeros(4) / 0}, {}, 422, "shape", "sinks must be of finite numbers"),
    ({**QKV, "mask": torch.zeros(3, 2)}, {}, 422, "shape", "mask must be [2, 2] or [1, 4, 2, 2]"),
    ({**QKV, "mask": torch.zeros(1, 2, 2)}, {}, 422, "shape", "mask must be [2, 2] or"),
    ({**QKV, "mask": torch.zeros(2, 2).long()}, {}, 422, "shape", "mask must be bool, float32"),
    ({**QKV, "mask": torch.zeros(2, 2) / 0}, {}, 422, "shape", "mask must be of finite numbers"),
    ({**QKV, "mask": torch.ones(2, 2) / 0}, {}, 422, "shape", "mask must be of finite numbers"),
    ({**QKV, "q": Q > 0}, {}, 422, "shape", "q must be float32, float16 or bfloat16, got bool"),
    ({**QKV, "positions": cu(0, 1) > 0}, {}, 422, "shape", "q_positions must be int64"),
    (QKV, {"window": 1.5}, 422, "config", "window"),
    (QKV, {"window": 2**63}, 422, "config", "window"),
    (QKV, {"softcap": 0}, 422, "config", "softcap"),
    (QKV, {"softcap": 1e39}, 422, "config", "softcap"),
    (QKV, {"scale": -1e39}, 422, "config", "scale"),
    (QKV, {"scale": "1"}, 422, "config", "scale"),
    (QKV, {"return_lse": None}, 422, "config", "return_lse"),
    (QKV, {"window_size": 3}, 422, "unknown", "window_size"),
    (QKV, {"backend": "math"}, 422, "config", "backend must be 'sdpa'"),
    (QKV, {"backend": "sdpa"}, 422, "config", "backend must be absent: the operator"),
    (QKV, {"out_dtype": "float16"}, 422, "config", "out_dtype must be 'float32'"),
    (QKV, {"out_dtype": 32}, 422, "config", "out_dtype must be 'float32'"),
    ({**QKV, "k_index": cu(0, 4)}, {}, 422, "shape", "q_index must be given if k_index is"),
    ({**QKV, "q_index": cu(0, 1, 2)}, {}, 422, "shape", "q_index must be [2] or [1, 2], got [3]"),
    ({**QKV, "q_index": torch.zeros(2)}, {}, 422, "shape", "q_index must be int64, got float32"),
    ({**QKV, "q_index": cu(0, 1) > 0}, {}, 422, "shape", "q_index must be int64, got bool"),
    ({**QKV, "q_index": cu(0, 2**62)}, {}, 422, "shape", "q_index must be in [-2**62, 2**62)"),
    (QKV, {"k_offset": 1}, 422, "config", "q_offset must be given if k_offset or k_stride is"),
    (QKV, {"k_stride": 2}, 422, "config", "q_offset must be given if k_offset or k_stride is"),
    (
        {**QKV, "k_index": cu(0, 4)},
        {"k_offset": 1},
        422,
        "config",
        "k_offset must be absent if there is a tensor k_index, got 1",
    ),
    (
        {**QKV, "q_index": cu(0, 1), "k_index": cu(0, 4)},
        {"k_stride": 4},
        422,
        "config",
        "k_stride must be absent if there is a tensor k_index, got 4",
    ),
    (
        {**QKV, "q_index": cu(0, 1)},
        {"q_offset": 0},
        422,
        "config",
        "q_offset must be absent if there is a tensor q_index, got 0",
    ),
    (
        QKV,
        {"q_offset": 2**62 - 1},
        422,
        "config",
        "the index of the last of q, 4611686018427387903",
    ),
    (
        QKV,
        {"q_offset": 0, "k_stride": 2**62 - 1, "k_offset": 1},
        422,
        "config",
        "last of k, 1 + 46",
    ),
    (QKV, {"q_offset": 2**62}, 422, "config", "q_offset must be less than or equal to 46"),
    (QKV, {"q_offset": 2**63 - 1}, 422, "config", "q_offset must be"),
    (QKV, {"q_offset": -(2**63)}, 422, "config", "q_offset must be greater than or equal to -46"),
    (QKV, {"q_offset": 1.5}, 422, "config", "q_offset must be a valid integer"),
    (QKV, {"q_offset": 0, "k_stride": 0}, 422, "config", "k_stride must be greater than or equal"),
    (QKV, {"q_offset": 0, "k_stride": -1}, 422, "config", "k_stride"),
    (QKV, {"q_offset": 0, "k_stride": 2**63 - 1}, 422, "config", "k_stride"),
    (QKV, {"q_offset": 0, "k_stride": None}, 422, "config", "k_stride"),
    ({**QKV, "q": torch.zeros(8)}, {"q_offset": 0}, 422, "shape", "q must be [B, S, H, D]"),
    ({**QKV, "k": torch.zeros(())}, {"q_offset": 0, "k_offset": 1}, 422, "shape", "k must be"),
    ({**QKV, "cu_seqlens": cu(0, 2)}, {"q_offset": 0}, 422, "shape", "cu_seqlens_q must be absent"),
    (
        {**dict.fromkeys("qkv", PACKED), "cu_seqlens": cu(0, 3, 1, 4)},
        {"q_offset": 0, "k_offset": 1},
        422,
        "shape",
        "non-decreasing",
    ),
]
OTHERS = [
    ("/v1/cos_sin", {}, {}, 422, "shape", "positions"),
    ("/v1/cos_sin", {"positions": cu(0)}, {}, 422, "config", "rope.head_dim"),
    (
        "/v1/cos_sin",
        {"positions": cu(0)},
        {"rope": {"head_dim": 2**31}},
        413,
        "too_large",
        "rope.head_dim may be at most 8,192",
    ),
    ("/v1/cos_sin", {"positions": cu(0)}, {"rope": {"head_dim": -8}}, 422, "config", "head_dim"),
    (
        "/v1/cos_sin",
        {"positions": torch.zeros(2**13, dtype=torch.int64)},
        {"rope": {"head_dim": 8192}},
        413,
        "too_large",
        "answer",
    ),
    ("/v1/shift", {"k": K}, {}, 422, "shape", "delta"),
    ("/v1/shift", {"k": K, "delta": cu(1, 2, 3)}, {}, 422, "shape", "delta must be [2]"),
    ("/v1/shift", {"k": K, "delta": torch.tensor(1.5)}, {}, 422, "shape", "delta must be int64"),
    (
        "/v1/cos_sin",
        {"positions": torch.tensor([1e305], dtype=torch.float64)},
        {"rope": {"head_dim": 8}},
        422,
        "shape",
        "positions",
    ),
    (
        "/v1/rotate",
        {"q": PACKED, "cu_seqlens": torch.zeros(5000, dtype=torch.int32)},
        {},
        422,
        "shape",
        "cu_seqlens must be of at most",
    ),
    ("/v1/resolve", {}, {}, 422, "config", "rope must be given, got none"),
    (
        "/v1/resolve",
        {"q": Q},
        {"rope": "x"},
        422,
        "unknown",
        "unknown tensor q; this route has none",
    ),
    ("/v1/resolve", {}, {"rope": "x", "layer": 1}, 422, "unknown", "unknown parameter layer"),
    ("/v1/positions", {"q": Q}, {"builder": "x"}, 422, "unknown", "unknown tensor q"),
    ("/v1/positions", {}, {"builder": "x"}, 422, "config", "builder must be 'token_types'"),
    ("/v1/positions", {}, {"builder": "token_types", "rope": {}}, 422, "unknown", "parameter rope"),
    ("/v1/shift", {"k": K, "delta": cu(1, 2)}, {"to": {}}, 422, "shape", "positions must be given"),
    (
        "/v1/shift",
        {"k": K, "delta": cu(1, 2)},
        {"backend": "eager"},
        422,
        "config",
        "backend must be absent: the operator",
    ),
    (
        "/v1/merge",
        {"out": Q, "lse": Q[..., 0]},
        {"backend": "eager"},
        422,
        "config",
        "backend must be absent: the operator",
    ),
    ("/v1/cos_sin", {"positions": cu(0)}, {"backend": "eager"}, 422, "unknown", "backend"),
    ("/v1/merge", {"out": Q, "lse": Q}, {}, 422, "shape", "lse"),
    ("/v1/merge", {"out": Q, "lse": Q[..., 0].half()}, {}, 422, "shape", "lse must be float32"),
    ("/v1/merge", {"out": Q, "lse": Q[..., 0]}, {"n": 1}, 422, "unknown", "n"),
]
CASES = [("/v1/rotate", *case) for case in ROTATE]
CASES += [("/v1/attention", *case) for case in ATTENTION] + OTHERS


@pytest.mark.parametrize(("path", "tensors", "params", "status", "code", "words"), CASES)
async def test_a_call_that_does_not_fit(client, codec, path, tensors, params, status, code, words):
    message = Message(tensors, Parameters.of(params))
    check_problem(await post(client, codec, path, message, as_base64=True), status, code, words)
