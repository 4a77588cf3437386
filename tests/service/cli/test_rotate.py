"""`rotate`: a file in pieces is what the library makes of its tensors as a whole."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import rope_core
from service.cli.commands import rotate

Q = torch.randn(2, 40, 3, 64, generator=torch.Generator().manual_seed(0))
ROPE = '{"theta": 5e5, "head_dim": 64}'


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(rotate, "PIECE_BYTES", 7 * 3 * 64 * 4)


@pytest.fixture
def files(tmp_path):
    return tmp_path / "in.safetensors", tmp_path / "out.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_are_the_whole(cli, files, dtype):
    tensors = {
        "q": Q.to(dtype),
        "layers.0.k": Q[0].to(dtype).clone(),
        "v": Q.clone(),
        "odd": torch.ones(3, dtype=torch.uint8),
    }
    save_file(tensors, files[0], {"note": "kept"})
    assert cli("rotate", *files, "--rope", ROPE) == (0, "", "")
    rotated = load_file(files[1])
    rope = {"theta": 5e5}
    assert torch.equal(rotated["q"], rope_core.rotate(tensors["q"], rope=rope))
    assert torch.equal(rotated["layers.0.k"], rope_core.rotate(tensors["layers.0.k"], rope=rope))
    assert torch.equal(rotated["v"], Q)
    assert torch.equal(rotated["odd"], tensors["odd"])
    assert files[1].read_bytes()[:600].partition(b"}}")[0].count(b'"note":"kept"') == 1
    assert [file.name for file in files[1].parent.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("shape", [(40,), (2, 40), (3, 40), (3, 2, 40)])
def test_positions_of_the_file(cli, files, shape):
    positions = torch.randint(0, 999, shape, generator=torch.Generator().manual_seed(1))
    rope = {"theta": 5e5, "head_dim": 64}
    text = ROPE
    if len(shape) > 1 and shape[0] == 3:
        rope |= {"axes": "mrope", "mrope_section": [8, 12, 12]}
        text = '{"theta": 5e5, "head_dim": 64, "axes": "mrope", "mrope_section": [8, 12, 12]}'
    save_file({"q": Q, "positions": positions}, files[0])
    assert cli("rotate", *files, "--rope", text).code == 0
    if shape == (3, 40):
        positions = positions[:, None].expand(3, 2, 40)
    expected = rope_core.rotate(Q, rope=rope, positions=positions)
    assert torch.equal(load_file(files[1])["q"], expected)


def test_packed_sequences_count_from_0(cli, files):
    cu_seqlens = torch.tensor([0, 7, 7, 40])
    save_file({"q": Q[0].contiguous(), "cu_seqlens": cu_seqlens}, files[0])
    assert cli("rotate", *files, "--rope", ROPE).code == 0
    expected = rope_core.rotate(Q[0], rope={"theta": 5e5}, cu_seqlens=cu_seqlens)
    assert torch.equal(load_file(files[1])["q"], expected)


def test_the_length_is_that_of_the_file(cli, files):
    """Each piece of a model with dynamic frequencies has the frequencies of all tokens."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "max_position_embeddings": 16, "head_dim": 64}
    text = str(rope).replace("'", '"')
    save_file({"q": Q}, files[0])
    assert cli("rotate", *files, "--rope", text).code == 0
    assert torch.equal(load_file(files[1])["q"], rope_core.rotate(Q, rope=rope))


def test_inverse_and_shift(cli, files, tmp_path):
    save_file({"k": Q}, files[0])
    back, moved = tmp_path / "back.safetensors", tmp_path / "moved.safetensors"
    cli("rotate", *files, "--rope", ROPE)
    assert cli("rotate", files[1], back, "--rope", ROPE, "--inverse").code == 0
    assert torch.allclose(load_file(back)["k"], Q, atol=1e-5)
    assert cli("rotate", files[1], moved, "--rope", ROPE, "--shift", "-3").code == 0
    expected = rope_core.rotate(Q, rope={"theta": 5e5}, positions=torch.arange(40) - 3)
    assert torch.allclose(load_file(moved)["k"], expected, atol=1e-5)
    both = cli("rotate", *files, "--rope", ROPE, "--inverse", "--shift", "1")
    assert (both.code, both.err.count("\n")) == (2, 1)


def test_a_service_gives_the_same_file(cli, files, server_url):
    save_file({"q": Q}, files[0])
    cli("rotate", *files, "--rope", "llama-3.2-1b")
    local = files[1].read_bytes()
    files[1].unlink()
    assert cli("rotate", *files, "--rope", "llama-3.2-1b", "--url", server_url).code == 0
    assert files[1].read_bytes() == local


def test_a_file_may_replace_itself(cli, files):
    save_file({"q": Q}, files[0])
    assert cli("rotate", files[0], files[0], "--rope", ROPE).code == 0
    assert torch.equal(load_file(files[0])["q"], rope_core.rotate(Q, rope={"theta": 5e5}))


@pytest.mark.parametrize(
    ("tensors", "arguments", "text"),
    [
        ({"x": Q}, (), "must have a tensor named q or k, got x; see --tensor"),
        ({"q": Q}, ("--tensor", "*.q"), "must have a tensor named *.q, got q"),
        ({"q": Q[0, 0]}, (), "q must be of shape [T, H, D] or [B, S, H, D], got [3, 64]"),
        ({"q": Q.long()}, (), "q must be of floating point, got I64"),
        ({"q": Q[..., :32]}, (), "q: "),
        ({"q": Q, "positions": torch.arange(3)}, (), "as long as the 40 tokens of q"),
        ({"q": Q, "positions": torch.full((40,), torch.nan)}, (), "q: positions must be"),
    ],
)
def test_what_does_not_fit_gets_a_sentence_and_no_file(cli, files, tensors, arguments, text):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, files[0])
    ended = cli("rotate", *files, "--rope", ROPE, *arguments)
    assert ended.code == 2
    assert ended.err.startswith("rope-service: ")
    assert text in ended.err
    assert ended.err.count("\n") == 1
    assert not files[1].exists()


def test_files_that_cannot_be_opened(cli, files):
    missing = cli("rotate", *files, "--rope", ROPE)
    assert (missing.code, "cannot read" in missing.err) == (2, True)
    save_file({"q": Q}, files[0])
    unwritable = cli("rotate", files[0], files[0].parent / "none" / "x", "--rope", ROPE)
    assert (unwritable.code, "cannot write" in unwritable.err) == (2, True)
