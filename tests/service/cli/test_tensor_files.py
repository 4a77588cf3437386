"""Tensors of files: what is read, and one sentence for what is not."""

# ruff: noqa: TID251 (torch.save writes what is read here)

import io
import os
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from service.cli.errors import InputError
from service.cli.tensor_files import read_tensor_file, read_tensors

Q = torch.arange(24.0).view(2, 3, 4)


class Opener:
    """Its unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_safetensors_of_the_library_are_read(tmp_path, dtype):
    file, empty = tmp_path / "x.safetensors", torch.empty(0, 3)
    save_file({"q": Q.to(dtype), "empty": empty}, file, {"note": "x"})
    read = read_tensors(str(file))
    assert torch.equal(read["q"], Q.to(dtype))
    assert read["q"].dtype is dtype
    assert read["empty"].shape == (0, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_npy_is_read(tmp_path, order):
    file = tmp_path / "x.npy"
    np.save(file, np.asfortranarray(Q.numpy()).astype(f"{order}f4"))
    assert torch.equal(read_tensor_file(str(file), "before"), Q)


@pytest.mark.parametrize("old", [False, True])
def test_pt_is_read(tmp_path, old):
    file, alone = tmp_path / "x.pt", tmp_path / "y.pt"
    torch.save({"q": Q, "step": 3}, file, _use_new_zipfile_serialization=not old)
    torch.save(torch.nn.Parameter(Q), alone)
    assert torch.equal(read_tensor_file(f"{file}:q", "before"), Q)
    assert not read_tensor_file(str(alone), "before").requires_grad


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (Q.to_sparse(), r"q must have plain numbers, got torch.sparse_coo"),
        (Q.to("meta"), "q must have plain numbers, got none"),
    ],
    ids=["sparse", "meta"],
)
def test_tensors_without_plain_numbers_are_refused(tmp_path, tensor, text):
    torch.save({"q": tensor}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=text):
        read_tensors(str(tmp_path / "x.pt"))


def test_a_tensor_is_named_behind_a_colon(tmp_path):
    file = tmp_path / "a:b.safetensors"
    save_file({"before": Q, "model.q": Q + 1}, file)
    assert torch.equal(read_tensor_file(f"{file}:model.q", "before"), Q + 1)
    assert torch.equal(read_tensor_file(str(file), "before"), Q)
    with pytest.raises(InputError, match=r"got the tensors before, model\.q; name one: .*:NAME"):
        read_tensor_file(str(file), "after")
    with pytest.raises(InputError, match="must have k, got the tensors"):
        read_tensor_file(f"{file}:k", "after")
    with pytest.raises(InputError, match=r"cannot read .*safetensors:: No such file"):
        read_tensor_file(f"{file}:", "after")


def test_standard_input_is_read(tmp_path, monkeypatch):
    save_file({"q": Q}, tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert torch.equal(read_tensor_file("-", "before"), Q)


def test_a_named_pipe_is_read(tmp_path):
    save_file({"q": Q}, tmp_path / "x")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "x").read_bytes())
    )
    writer.start()
    assert torch.equal(read_tensors(str(tmp_path / "pipe"))["q"], Q)
    writer.join()


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"q": Q, "x": Opener(tmp_path / "made")}, tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([Opener(tmp_path / "made")]), allow_pickle=True)
    for name, text in (("x.pt", "is no .pt file with tensors"), ("x.npy", "is no .npy file")):
        with pytest.raises(InputError, match=text):
            read_tensors(str(tmp_path / name))
    assert not (tmp_path / "made").exists()


def with_length(header):
    return len(header).to_bytes(8, "little") + header


HEADER = b'{"q":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "does not begin with a header; expected safetensors, .npy or .pt"),
        (b"{}", "does not begin with a header"),
        (b"\xff" * 64, "does not begin with a header"),
        (len(HEADER).to_bytes(8, "little") + HEADER, "ends before the tensor q"),
        ((4).to_bytes(8, "little") + b"[1] ", "its header is not a JSON object"),
        ((4).to_bytes(8, "little") + b"{x} ", "its header is not a JSON object"),
        ((8).to_bytes(8, "little") + b'{"q":1} ', "q must have dtype, shape and data_offsets"),
        (
            with_length(
                b'{"q":{"dtype":"F32","shape":[' + b"9" * 20 + b',0],"data_offsets":[0,0]}}'
            ),
            "smaller",
        ),
        (b"\x93NUMPY\x01\x00", "is no .npy file of numbers"),
        (b"PK\x03\x04" + bytes(64), "is no .pt file with tensors only"),
    ],
)
def test_another_file_gets_a_sentence(tmp_path, data, text):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=text.replace(".", r"\.")):
        read_tensors(str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("none", "No such file"), ("", "is a folder"), ("\0", "no file has this name")],
)
def test_a_file_that_cannot_be_read_gets_a_sentence(tmp_path, name, text):
    with pytest.raises(InputError, match=text):
        read_tensors(f"{tmp_path}/{name}")


def test_a_header_whose_numbers_do_not_fit_is_refused(tmp_path):
    for change in (b"[0,7]", b"[8,0]", b"[-8,0]", b"[0,true]"):
        header = HEADER.replace(b"[0,8]", change)
        (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(InputError):
            read_tensors(str(tmp_path / "x"))
