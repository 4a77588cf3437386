"""Layers of models against golden vectors: rotation and attention from the `config` alone."""

import pytest
import torch

from rope_core import Attend, AttentionConfig, Rotate, attend, resolve, rotate
from rope_core import positions as build
from tests.core.oracle import attended
from tests.golden_cases import load, names
from tests.transformers_live import Model, rotated
from tests.ulp import rotated_within_ulp

OFF = 1e-5
LAYERS = [
    (name, layer["index"])
    for name in names("attention")
    for layer in load("attention", name).described["layers"]
]


APPLY = {
    "apply_rotary_pos_emb": "qk",
    "apply_rotary_pos_emb_interleave": "interleave",
    "apply_rotary_emb": "complex_bshd",
}


class Layer:
    """One layer of a golden model; tensors are `[B, S, H, D]`."""

    def __init__(self, name, index):
        self.case = case = load("attention", name)
        self.index = index
        self.described = next(row for row in case.described["layers"] if row["index"] == index)
        self.resolved = resolve(
            case.described["config"],
            model_type=case.described["source"]["module"],
            layer=self.described["layer_idx"],
        )

    def tensor(self, name):
        tensor = self.case.tensors.get(f"{self.index}.{name}")
        if tensor is None or name in ("out", "mask", "sinks"):
            return tensor
        # Llama 4 rotates [B, S, H, D], all others [B, H, S, D]
        rotated = name.endswith(("_pre", "_rot"))
        heads = self.described["num_heads" if name[0] == "q" else "num_kv_heads"]
        swapped = rotated and tensor.shape[2] == heads and tensor.shape[1] != heads
        return tensor if swapped else tensor.transpose(1, 2)

    @property
    def positions(self):
        """Of the queries, and of the keys."""
        ids = self.case.tensors.get("position_ids")
        num_q, num_k = self.tensor("query").shape[1], self.tensor("key").shape[1]
        if ids is None:
            every = torch.arange(self.case.tensors["input_ids"].shape[1])
            return every[-num_q:], every[-num_k:]
        return ids[..., -num_q:], ids[..., -num_k:]

    def rotated_by_transformers(self):
        """What the model makes of q and k on this processor, now."""
        model = Model.of(self.case.described["source"], self.case.described["config"])
        at, _ = self.positions
        ids = at if at.ndim > 1 else at[None]
        q, k = (self.tensor(name).transpose(1, 2) for name in ("q_pre", "k_pre"))
        table = model.table(q, [ids], self.described["layer_type"])
        apply = APPLY[self.case.described["source"]["apply_fns"][0]]
        q, k = (x.transpose(1, 2) for x in rotated(model.module, apply, q, k, table))
        return {"q": q, "k": k}

    @property
    def hidden_keys(self):
        """Which keys the file's own attention mask hides, `[B, 1, 1, Sk]` true where seen."""
        mask = self.case.described["attention_mask"]
        return None if mask is None else torch.tensor(mask, dtype=torch.bool)[:, None, None]

    @property
    def is_packed(self):
        return "packed" in self.case.described["feature"]

    @property
    def in_one_call(self):
        """Whether the file has all that goes into rotation and attention at once."""
        q, k = self.tensor("q_pre"), self.tensor("k_pre")
        if q is None or k.shape[1] != self.tensor("key").shape[1] or self.is_packed:
            return False
        # some models normalise between the two
        follows = torch.equal(self.tensor("query")[..., -q.shape[-1] :], self.tensor("q_rot"))
        return follows and self.hidden_keys is None


def name_of(pair):
    return f"{pair[0]}.{pair[1]}"


@pytest.fixture(params=LAYERS, ids=name_of)
def layer(request):
    return Layer(*request.param)


def test_a_layer_rotates_as_its_model(layer):
    q = layer.tensor("q_pre")
    if q is None:
        assert layer.resolved.rope is None
        assert layer.resolved.nope
        return
    rope, (at, _) = layer.resolved.rope, layer.positions
    k = layer.tensor("k_pre")
    actual, expected = rotate(Rotate(q, k, rope, at)), layer.rotated_by_transformers()
    off = 5e-7 if rope.rounding == "complex" else 0
    for name, x, before in (("q", actual.q, q), ("k", actual.k, k)):
        torch.testing.assert_close(x, expected[name], rtol=0, atol=off)
        assert rotated_within_ulp(x, layer.tensor(f"{name}_rot"), before, rope, at)


def test_what_a_layer_sees_and_the_scale_are_its_models(layer):
    kwargs, config = layer.described["eager_kwargs"], layer.resolved.attention
    scale = layer.tensor("query").shape[-1] ** -0.5 if config.scale is None else config.scale
    assert scale == pytest.approx(kwargs["scaling"], rel=1e-9)
    assert config.softcap == kwargs.get("softcap")


def test_a_layer_attends_as_its_model(backend, layer):
    query, key, value = (layer.tensor(name) for name in ("query", "key", "value"))
    expected, mask = layer.tensor("out"), layer.hidden_keys
    attention = layer.resolved.attention
    if layer.is_packed:
        ends = build.document_boundaries(positions=layer.case.tensors["position_ids"][0])
        packed = (t.flatten(0, 1) for t in (query, key, value))
        call = Attend(*packed, None, attention, cu_seqlens_q=ends, cu_seqlens_k=ends)
        actual = attended(call, backend).view_as(expected)
    else:
        call = Attend(query, key, value, None, attention, sinks=layer.tensor("sinks"), mask=mask)
        actual = attended(call, backend)
    if mask is not None:  # transformers lets rows that see nothing see all; here they are 0
        seen = mask[:, 0, 0, -expected.shape[1] :]
        actual, expected = actual[seen], expected[seen]
    torch.testing.assert_close(actual, expected, rtol=0, atol=OFF)


IN_ONE_CALL = [pair for pair in LAYERS if Layer(*pair).in_one_call]


@pytest.mark.parametrize("pair", IN_ONE_CALL, ids=name_of)
def test_rotation_and_attention_in_one_call(backend, pair):
    layer = Layer(*pair)
    q, k = layer.tensor("q_pre"), layer.tensor("k_pre")
    query, key, value = (layer.tensor(name) for name in ("query", "key", "value"))
    rope = layer.resolved.rope
    if rope.head_dim < query.shape[-1]:  # MLA: heads with the part that does not rotate
        whole = query.shape[-1]
        rope = resolve(
            layer.case.described["config"],
            model_type=layer.case.described["source"]["module"],
            layer=layer.described["layer_idx"],
            head_dim=whole,
        ).rope
        q = torch.cat((query[..., : whole - q.shape[-1]], q), -1)
        k = k.expand(-1, -1, key.shape[2], -1)
        k = torch.cat((key[..., : whole - k.shape[-1]], k), -1)
    at_q, at_k = layer.positions
    call = Attend(
        q,
        k,
        value,
        rope,
        layer.resolved.attention,
        at_q,
        at_k,
        sinks=layer.tensor("sinks"),
    )
    torch.testing.assert_close(attended(call, backend), layer.tensor("out"), rtol=0, atol=OFF)


def test_the_defaults_alone_would_not_do():
    """What the tests above compare is not what any attention answers."""
    layer = Layer("gemma2_softcap", 0)
    query, key, value = (layer.tensor(name) for name in ("query", "key", "value"))
    out = attend(Attend(query, key, value, None, AttentionConfig())).out
    assert (out - layer.tensor("out")).abs().max() > 100 * OFF
