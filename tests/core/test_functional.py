"""`rotate` and `attend` of tensors, with positions and ropes in the forms that users have."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

import rope_core
from rope_core import (
    Attend,
    ConfigError,
    CosSin,
    Merge,
    RopeConfig,
    RopeWarning,
    Rotate,
    ShapeError,
    Shift,
    attend,
    hf,
    resolve,
    rotate,
    shift,
)
from rope_core.presets import built_in
from tests.core.oracle import randn

ROPE = RopeConfig(head_dim=64, theta=5e5)
Q, K = randn(2, 6, 4, 64), randn(2, 6, 2, 64, seed=1)
NAME = "llama-3.2-1b"
CONFIG = copy.deepcopy(built_in()[NAME].config)  # `LlamaConfig` changes what it is given

POSITIONS = {
    "none": None,
    "range": range(6),
    "list": [0, 1, 2, 3, 4, 5],
    "fractions": [0.0, 1, 2, 3, 4, 5],
    "rows": [[0, 1, 2, 3, 4, 5]] * 2,
    **{str(dtype): np.arange(6, dtype=dtype) for dtype in ("int64", "int32", "uint8", "uint64")},
    **{dtype: np.arange(6, dtype=dtype) for dtype in ("float32", "float64")},
    "a step back": np.arange(5, -1, -1)[::-1],
    "another order of bytes": np.arange(6, dtype=">i8"),
    "int64 tensor": torch.arange(6),
    "int32 tensor": torch.arange(6).int(),
}


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
def test_forms_of_positions(positions):
    q, k = rotate(Q, K, positions=positions, rope=ROPE)
    expected = rotate(Rotate(Q, K, ROPE, torch.arange(6)))
    assert torch.equal(q, expected.q)
    assert torch.equal(k, expected.k)


def test_one_tensor_alone():
    q, k = rotate(Q, K, rope=ROPE)
    assert torch.equal(rotate(Q, rope=ROPE), q)
    assert torch.equal(rotate(None, K, rope=ROPE), k)
    assert torch.equal(
        rotate(q, rope=ROPE, inverse=True), rotate(Rotate(q, None, ROPE, inverse=True)).q
    )


BAD_POSITIONS = {
    "lengths differ": ([[1], [2, 3]], "lists of numbers"),
    "text": (["a"], "lists of numbers"),
    "a large number": ([2**70] * 6, "lists of numbers between"),
    "a large uint64": (np.array([2**63 + 1] * 6, dtype=np.uint64), "lists of numbers between"),
    "no tensor": ({"a": 1}, "lists of numbers"),
    "beyond 2**53": ([2**53 + 1] * 6, r"between -2\*\*53 and 2\*\*53, got 9007199254740993"),
    "booleans": ([True] * 6, "int64, or fractional"),
}


@pytest.mark.parametrize(("positions", "text"), BAD_POSITIONS.values(), ids=BAD_POSITIONS)
def test_bad_positions(positions, text):
    with pytest.raises(ShapeError, match=f"^positions must be .*{text}"):
        rotate(Q, positions=positions, rope=ROPE)


@pytest.fixture
def ropes(tmp_path):
    """One model in every form."""
    (tmp_path / "config.json").write_text(json.dumps(dict(CONFIG)))
    return [
        *(NAME, "meta-llama/Llama-3.2-1B", "META-LLAMA/llama-3.2-1b", "Llama-3.2-1B"),
        *(CONFIG, dict(CONFIG), tmp_path, tmp_path / "config.json"),
        *(str(tmp_path), str(tmp_path / "config.json")),
        *(LlamaConfig(**CONFIG), resolve(NAME), resolve(NAME).rope),
        *({"preset": NAME, "layer": 0}, {"config": CONFIG}, {"config": tmp_path}),
    ]


def test_forms_of_a_model(ropes):
    model = hf.resolve(CONFIG)
    q, k = rotate(Rotate(Q, K, model.rope)).q, rotate(Rotate(Q, K, model.rope)).k
    for rope in ropes:
        rotated = rotate(Q, K, rope=rope)
        assert torch.equal(rotated[0], q), rope
        assert torch.equal(rotated[1], k), rope
        resolved = resolve(rope)
        assert resolved.rope == model.rope, rope
        assert torch.equal(resolved.inv_freq, model.rope.inv_freq)
        out = attend(Q, K, K, rope=rope)
        assert torch.equal(out, attend(Attend(Q, K, K, model.rope)).out)


def test_a_dict_of_parameters():
    expected = rotate(Q, rope=ROPE)
    assert torch.equal(rotate(Q, rope={"theta": 5e5}), expected)
    assert torch.equal(rotate(Q, rope=resolve({"theta": 5e5, "head_dim": 64})), expected)
    rope = {"rope_type": "linear", "factor": 4.0, "rotary_dim": 32}
    linear = RopeConfig.of(64, **rope)
    assert resolve(rope, head_dim=64).rope == linear
    hf_rounding = resolve({"arithmetic": "hf"}, head_dim=64).rope
    assert hf_rounding == RopeConfig.of(64, arithmetic="hf", rounding="activation")


NOPE = {
    "model_type": "smollm3",
    "no_rope_layers": [0] * 36,
    "hidden_size": 64,
    "num_attention_heads": 1,
}
BAD_ROPES = {
    "none": (None, "rope must be a RopeConfig, .* got none"),
    "a number": (7, "rope must be a RopeConfig, .* got int"),
    "a name": ("lama-3.1-8b", "rope must be .* nearest is 'llama-3.1-8b'"),
    "an id": ("meta-llama/Llama-3.1-8B-Instruct", "nearest is 'llama-3.1-8b'"),
    "an empty name": ("", "rope must be the name of a preset or the path"),
    "a name that no file has": ("a" * 10_000, "rope must be the name of a preset or the path"),
    "a class": (LlamaConfig, "rope must be a RopeConfig, .* got type"),
    "a file": ("none/config.json", "none/config.json must be readable"),
    "another name": ({"rope_theta": 5e5}, r"rope\['rope_theta'\] must be .* such as 'theta'"),
    "a typing error": ({"thta": 5e5}, r"rope\['thta'\] must be .* such as 'theta'"),
    "an option": ({"preset": NAME, "layr": 0}, r"rope\['layr'\] must be one of .*'layer'"),
    "dict of a variant": ({"rope_type": "llama3", "rope_theta": 1.0}, r"rope\['rope_theta'\]"),
    "no rotation": (
        hf.resolve(NOPE, layer=3),
        "rope must be that of a layer that rotates, got one that does not: no_rope",
    ),
}


@pytest.mark.parametrize(("rope", "text"), BAD_ROPES.values(), ids=BAD_ROPES)
def test_bad_ropes(rope, text):
    with pytest.raises(ConfigError, match=text):
        rotate(Q, rope=rope)


def test_options_of_a_model_without_a_model():
    with pytest.raises(
        ConfigError, match="layer must be None, because the rope is not a model's config"
    ):
        resolve(ROPE, layer=3)
    assert resolve({"rope_theta": 5e5, "head_dim": 64}, model_type="llama").rope.theta == 5e5
    with pytest.raises(ConfigError, match="head_dim must be given"):
        resolve({"theta": 5e5})


def test_whole_heads_by_default():
    assert RopeConfig(head_dim=64).rotary_dim == 64
    assert RopeConfig(head_dim=64, theta=5e5) == RopeConfig.of(64, theta=5e5)
    expected = 5e5 ** (-torch.arange(0, 64, 2).double() / 64)
    torch.testing.assert_close(ROPE.inv_freq, expected, rtol=1e-14, atol=0)
    ROPE.inv_freq.zero_()
    torch.testing.assert_close(ROPE.inv_freq, expected, rtol=1e-14, atol=0)
    assert resolve(NOPE, layer=3).inv_freq is None


BESIDE_A_CALL = {
    "positions": lambda call: rotate(call, positions=[5] * 6),
    "rope": lambda call: rotate(call, rope={"theta": 5e5}),
    "inverse": lambda call: rotate(call, inverse=True),
    "q_positions": lambda call: attend(Attend(Q, K, K, ROPE), q_positions=range(6)),
    "sinks": lambda call: attend(Attend(Q, K, K, ROPE), sinks=torch.zeros(4)),
    "return_lse": lambda call: attend(Attend(Q, K, K, ROPE), return_lse=True),
}


@pytest.mark.parametrize("name", BESIDE_A_CALL)
def test_an_argument_beside_a_call_is_refused(name):
    with pytest.raises(ConfigError, match=f"^{name} must be a field of the call"):
        BESIDE_A_CALL[name](Rotate(Q, K, ROPE))


def test_arguments_that_attend_does_not_have():
    with pytest.raises(TypeError, match=r"^attend\(\) got .* 'rotat'$"):
        attend(Q, K, K, rope=ROPE, rotat="q")
    with pytest.raises(TypeError, match=r"'scale': pass attention=AttentionConfig\(scale=...\)"):
        attend(Q, K, K, rope=ROPE, scale=0.5)
    with pytest.raises(ConfigError, match=r"^attention must be an AttentionConfig, or None, got {"):
        attend(Q, K, K, rope=ROPE, attention={"causal": False})
    with pytest.raises(
        ConfigError, match=r"^out_dtype must be float32 or that of q, as a .*, got 'float32'"
    ):
        attend(Q, K, K, rope=ROPE, out_dtype="float32")


def test_positions_as_the_third_argument_are_refused():
    with pytest.raises(ConfigError, match=r"backend must be .* are given by name, as positions="):
        rotate(Q, K, [0, 1, 2, 3, 4, 5], rope=ROPE)


def test_warnings_of_a_model_are_given():
    with pytest.warns(RopeWarning, match="layers differ") as seen:
        rotate(randn(1, 2, 1, 128), rope="command-r7b-12-2024")
    assert seen[0].filename == __file__


BHSD = Q.transpose(1, 2), K.transpose(1, 2)  # [2, 4, 6, 64], [2, 2, 6, 64]
HEADS_FIRST = {
    "heads of k": lambda: rotate(*BHSD, rope=ROPE),
    "a step of decoding": lambda: attend(BHSD[0][:, :, :1], BHSD[1], BHSD[1], rope=None),
}


@pytest.mark.parametrize("run", HEADS_FIRST.values(), ids=HEADS_FIRST)
def test_heads_first_is_an_error(run):
    with pytest.raises(ShapeError, match=r"look like \[B, H, S, D\]: .*\.transpose\(1, 2\)"):
        run()


IN_AXIS_S = "has 4 tokens in axis S (shape [B=2, S=4, H=6, D=64])"
MISCOUNTED = {  # the call, and the text after what was expected and what came
    "positions": (
        lambda: rotate(BHSD[0], positions=range(6), rope=ROPE),
        f"q {IN_AXIS_S}; positions has 6: are the axes [B, H, S, D]? Then transpose q, k and v",
    ),
    "positions of rows": (
        lambda: rotate(BHSD[0], positions=[[*range(6)]] * 2, rope=ROPE),
        f"q {IN_AXIS_S}; positions has 6: are the axes [B, H, S, D]? Then transpose q, k and v",
    ),
    "positions of k": (
        lambda: rotate(None, BHSD[0], positions=range(6), rope=ROPE),
        f"k {IN_AXIS_S}; positions has 6: are the axes [B, H, S, D]?",
    ),
    "positions of attention": (
        lambda: attend(BHSD[0], BHSD[1], BHSD[1], positions=range(6), rope=ROPE),
        f"q {IN_AXIS_S}; q_positions has 6: are the axes [B, H, S, D]?",
    ),
    "index of keys": (
        lambda: attend(*(Q, K, K), rope=None, q_index=torch.arange(6), k_index=torch.arange(5)),
        "k has 6 tokens in axis S (shape [B=2, S=6, H=2, D=64]); k_index has 5",
    ),
    "delta": (
        lambda: shift(Shift(BHSD[0], torch.arange(6), ROPE)),
        f"k {IN_AXIS_S}; delta has 6: are the axes [B, H, S, D]?",
    ),
    "tokens first": (
        lambda: rotate(torch.zeros(6, 3, 2, 64), positions=range(6), rope=ROPE),
        "S (shape [B=6, S=3, H=2, D=64]); positions has 6: are the axes [S, B, H, D]?",
    ),
    "packed": (
        lambda: rotate(torch.zeros(4, 6, 64), positions=range(6), rope=ROPE),
        "4 tokens in axis T (shape [T=4, H=6, D=64]); positions has 6: are the axes [H, T, D]?",
    ),
    "no axis": (
        lambda: rotate(Q, positions=range(5), rope=ROPE),
        "q has 6 tokens in axis S (shape [B=2, S=6, H=4, D=64]); positions has 5",
    ),
    "rows": (
        lambda: rotate(Q, positions=[[*range(6)]] * 4, rope=ROPE),
        "q has 2 rows in axis B (shape [B=2, S=6, H=4, D=64]); positions has 4",
    ),
}


@pytest.mark.parametrize(("run", "text"), MISCOUNTED.values(), ids=MISCOUNTED)
def test_a_wrong_number_names_the_axis(run, text):
    with pytest.raises(ShapeError) as wrong:
        run()
    words = str(wrong.value)
    assert re.search(r"^\S+ must be \[.*\], got \[.*\]: ", words)
    assert text in words
    assert ("?" in words) == ("?" in text)


def test_heads_first_without_positions_has_a_warning():
    with pytest.warns(RopeWarning, match=r"look like \[B, H, S, D\]"):
        rotate(randn(1, 8, 300, 64), rope=ROPE)
    with pytest.warns(RopeWarning, match=r"look like \[B, H, S, D\]"):
        attend(*BHSD, BHSD[1], rope=None)
    with pytest.raises(ShapeError) as wrong:
        rotate(Q, positions=[0, 1, 2], rope=ROPE)
    assert "transpose" not in str(wrong.value)


ARRAY = np.zeros((6, 1, 64), dtype=np.float32)
X, ONES = torch.zeros(6, 1, 64), torch.zeros(6, dtype=torch.int64)
LEARNED = RopeConfig.of(64, learned="log_scale")
NO_TENSORS = {
    "q": lambda: Rotate(k=None, q=ARRAY, rope=ROPE),
    "q of rotate": lambda: rotate(ARRAY, rope=ROPE),
    "q of attend": lambda: attend(ARRAY, X, X, rope=ROPE),
    "k": lambda: Rotate(X, ARRAY, ROPE),
    "k of rotate": lambda: rotate(None, ARRAY, rope=ROPE),
    "v": lambda: attend(X, X, ARRAY, rope=ROPE),
    "positions": lambda: Rotate(X, None, ROPE, np.arange(6)),
    "positions of a table": lambda: CosSin(np.arange(6), ROPE),
    "cu_seqlens": lambda: Rotate(X, None, ROPE, cu_seqlens=np.arange(2)),
    "frequencies": lambda: Rotate(X, None, LEARNED, frequencies=np.zeros(32)),
    "delta": lambda: Shift(X, np.arange(6), ROPE),
    "k of shift": lambda: Shift(ARRAY, ONES, ROPE),
    "positions of shift": lambda: Shift(X, ONES, ROPE, np.arange(6)),
    "sinks": lambda: Attend(X, X, X, None, sinks=np.zeros(1)),
    "mask": lambda: Attend(X, X, X, None, mask=np.zeros((6, 6))),
    "q_positions": lambda: Attend(X, X, X, ROPE, q_positions=np.arange(6)),
    "cu_seqlens_q": lambda: Attend(X, X, X, ROPE, cu_seqlens_q=np.arange(2), cu_seqlens_k=ONES),
    "q_index": lambda: Attend(X, X, X, None, q_index=np.arange(6)),
    "out": lambda: Merge(ARRAY, X[..., 0]),
    "lse": lambda: Merge(X, ARRAY[..., 0]),
}


@pytest.mark.parametrize("name", NO_TENSORS)
def test_an_array_in_place_of_a_tensor_says_how_to_convert_it(name):
    text = (
        rf"^{name.split()[0]} must be a torch.Tensor \(convert with torch.from_numpy\), got a numpy"
    )
    with pytest.raises(ShapeError, match=text):
        NO_TENSORS[name]()


NO_ROPES = {
    "rotate": ("rope", lambda rope: Rotate(X, None, rope)),
    "attend": ("rope", lambda rope: Attend(X, X, X, rope)),
    "shift": ("rope", lambda rope: Shift(X, ONES, rope)),
    "shift to": ("to", lambda rope: Shift(X, ONES, ROPE, ONES, rope)),
    "cos_sin": ("rope", lambda rope: CosSin(ONES, rope)),
}


@pytest.mark.parametrize("name", NO_ROPES)
def test_a_call_takes_no_other_form_of_a_rope(name):
    field, make = NO_ROPES[name]
    for rope in ({}, "llama-3.2-1b", resolve(NAME)):
        with pytest.raises(ConfigError, match=rf"^{field} must be a RopeConfig, such as resolve\("):
            make(rope)


def test_a_list_in_place_of_a_tensor():
    with pytest.raises(ShapeError, match=r"^delta must be a torch.Tensor \(.*tensor\), got a list"):
        Shift(X, [1], ROPE)


@pytest.mark.filterwarnings("ignore::rope_core.RopeWarning")
@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v3", "kimi-k2-instruct"])
def test_heads_of_mla_say_their_widths(name):
    with pytest.raises(ConfigError, match=r"^head_dim must be 64: .*; or 192: .*, got 128$"):
        rotate(randn(1, 2, 1, 128), rope=name)
    for width in (64, 192):
        assert rotate(randn(1, 2, 1, width), rope=name).shape[-1] == width
    no_nope = {"model_type": "mistral_mla_params", "qk_rope_head_dim": 64}
    with pytest.raises(ConfigError, match=r"^head_dim must be 64: [^;]*, got 128$"):
        rope_core.resolve(no_nope, head_dim=128, layer=0)
