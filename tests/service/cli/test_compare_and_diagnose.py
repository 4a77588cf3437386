"""`compare` and `diagnose`: what the routes answer, as words, with the exit codes of `diff`."""

import json

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rope_core

Q = torch.randn(1, 48, 2, 128, generator=torch.Generator().manual_seed(0))
RIGHT = rope_core.rotate(Q, rope="llama-3.1-8b")
ROPE = {"theta": 5e5, "layout": "interleaved", "arithmetic": "hf"}
WRONG = rope_core.rotate(Q, rope={**ROPE, "layout": "half"})


@pytest.fixture
def observed(tmp_path):
    """A file of tensors with the names of the request: no scaling was applied."""
    file = tmp_path / "observed.safetensors"
    save_file({"before": Q, "after": WRONG, "other": torch.ones(3, dtype=torch.uint8)}, file)
    return file


def test_ropes_that_are_the_same(cli):
    ended = cli("compare", "llama-3.1-8b", "llama-3.1-70b")
    assert ended.code == 0
    assert ended.out.startswith("llama-3.1-8b and llama-3.1-70b  same\n")


def test_ropes_that_differ(cli, server_url):
    ended = cli("compare", "llama-3.1-8b", "llama-3-8b")
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0] == "llama-3.1-8b and llama-3-8b  different"
    assert ["rope_type", "llama3", "default", "rope_scaling.rope_type"] in [
        line.split() for line in lines
    ]
    assert cli("compare", "llama-3.1-8b", "llama-3-8b", "--url", server_url) == ended
    body = {"rope": "llama-3.1-8b", "other": "llama-3-8b"}
    answer = httpx.post(f"{server_url}/v1/compare", json=body).json()
    shown = cli("compare", "llama-3.1-8b", "llama-3-8b", "--json")
    assert (shown.code, json.loads(shown.out)) == (1, answer)


def test_layers_of_models_that_differ(cli):
    refused = cli("compare", "gemma-3-27b-it", "gemma-3-4b-pt")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert cli("compare", "gemma-3-27b-it", "gemma-3-4b-pt", "--layer", "5").code in (0, 1)
    one = '{"preset": "gemma-3-27b-it", "layer": 0}', '{"preset": "gemma-3-27b-it", "layer": 1}'
    assert cli("compare", *one).code == 0


def test_inspect_against_another_config(cli):
    both = cli("inspect", "llama-3.1-8b", "--against", "llama-3-8b")
    apart = cli("inspect", "llama-3.1-8b").out, cli("compare", "llama-3.1-8b", "llama-3-8b").out
    assert both.out == apart[0] + "\n" + apart[1]
    assert both.code == 0


def test_tensors_by_their_names_in_one_file(cli, observed):
    ended = cli("diagnose", observed, "--rope", "llama-3.1-8b")
    assert ended.code == 1
    assert ended.out.startswith("explained  relative error ")
    assert "\n1. scaling_ignored  relative error " in ended.out
    assert "remedy: " in ended.out


def test_json_is_what_the_route_answers(cli, observed, server_url):
    tensors = {
        name: {"shape": list(x.shape), "dtype": "float32", "data": x.flatten().tolist()}
        for name, x in (("before", Q), ("after", WRONG))
    }
    body = {**tensors, "rope": "llama-3.1-8b", "max_mistakes": 1}
    command = "diagnose", observed, "--rope", "llama-3.1-8b", "--max-mistakes", "1", "--json"
    answer = httpx.post(f"{server_url}/v1/diagnose", json=body, timeout=60).json()
    for where in ((), ("--url", server_url)):
        shown = cli(*command, *where)
        assert (shown.code, json.loads(shown.out)) == (1, answer)


def test_tensors_of_several_files(cli, tmp_path):
    np.save(tmp_path / "before.npy", Q.numpy())
    torch.save({"rotated": RIGHT, "x": Q}, tmp_path / "after.pt")  # noqa: TID251
    files = "--before", tmp_path / "before.npy", "--after", f"{tmp_path / 'after.pt'}:rotated"
    ended = cli("diagnose", "--config", "llama-3.1-8b", *files, "--positions", "0:48")
    assert ended.code == 0
    assert ended.out.startswith("agrees  relative error 0, tolerance ")
    listed = ",".join(map(str, range(1, 49)))
    one = "--positions", listed, "--max-mistakes", "1"
    moved = cli("diagnose", "--config", "llama-3.1-8b", *files, *one)
    assert moved.code == 1
    assert "position_offset" in moved.out


def test_parameters_reach_the_route(cli, observed):
    loose = cli("diagnose", observed, "--rope", "llama-3.1-8b", "--tolerance", "5")
    assert loose.out.startswith("agrees")
    bad = [
        (("--max-mistakes", "3"), "max_mistakes"),
        (("--set", "window=4"), "window"),
        (("--set", "window"), "--set must be NAME=VALUE"),
        (("--set", "rope=1"), "--set must be NAME=VALUE"),
        (("--set", "no=1"), "unknown parameter no"),
        (("--layer", "99"), "rope.layer"),
        (("--positions", "0:99999999999"), "--positions must be at most"),
    ]
    for arguments, text in bad:
        ended = cli("diagnose", observed, "--rope", "llama-3.1-8b", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert text in ended.err


def test_evidence_that_is_missing_or_no_tensors(cli, tmp_path):
    save_file({"x": Q}, tmp_path / "x.safetensors")
    (tmp_path / "x.txt").write_text("hello, this is no file of tensors")
    for arguments, text in (
        ((tmp_path / "x.safetensors",), "must have tensors named after, before, "),
        ((tmp_path / "x.txt",), "is no safetensors file"),
        (("--before", tmp_path / "x.safetensors"), "after"),
        ((), ""),
    ):
        ended = cli("diagnose", *arguments, "--rope", "llama-3.1-8b")
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert text in ended.err


def test_frequencies_as_evidence(cli, tmp_path):
    rope = rope_core.resolve("llama-3-8b").require_rope()
    np.save(tmp_path / "f.npy", rope.inv_freq.numpy())
    ended = cli("diagnose", "--rope", "llama-3.1-8b", "--inv-freq", tmp_path / "f.npy")
    assert ended.code == 1
    assert "scaling_ignored" in ended.out
