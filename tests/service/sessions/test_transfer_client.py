"""Exports to files and imports from files by the Python clients."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rope_client import AsyncClient, Client
from rope_client.errors import RopeClientError, UnexpectedAnswer
from rope_client.sessions.transfer import ExportTarget
from tests.service.planned.servers import running

SIZES: dict[str, Any] = {"heads": 2, "kv_heads": 1, "head_dim": 8}
SETTINGS: dict[str, Any] = {"kv_bytes": 2**24, "kv_page_tokens": 4}


def tokens(num: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal((1, num, heads, 8), np.float32)
        for name, heads in (("q", 2), ("k", 1), ("v", 1))
    }


def use_blocking_client(address: str, folder: Path) -> None:
    with Client(address) as client, client.session(**SIZES) as session:
        session.step(0, **tokens(9))
        path = folder / "session.safetensors"
        assert session.export(path) == path.stat().st_size
        assert [*folder.iterdir()] == [path]
        file = io.BytesIO()
        session.export(file)
        assert file.getvalue() == path.read_bytes()
        with client.import_session(path, ttl_s=60, name="copy") as copy:
            assert copy.state.id != session.state.id
            answers = [each.step(0, **tokens(1)) for each in (session, copy)]
            assert np.array_equal(answers[0].out, answers[1].out)
            assert client.sessions(name="copy")
        with pytest.raises(RopeClientError, match="form"):
            session.export(path, "other")  # type: ignore[arg-type]
        session.export(path, "raw", start=1, stop=3)
        with pytest.raises(RopeClientError, match="stored"):
            client.import_session(path)
        assert len(client.sessions()) == 1


async def test_the_blocking_client(tmp_path: Path) -> None:
    async with running(protocol="ordinary", **SETTINGS) as service:
        host, port = service.address
        await asyncio.to_thread(use_blocking_client, f"http://{host}:{port}", tmp_path)


async def test_the_asynchronous_client(tmp_path: Path) -> None:
    async with running(protocol="ordinary", **SETTINGS) as service:
        host, port = service.address
        opened = AsyncClient(f"http://{host}:{port}")
        async with opened as client, client.session(**SIZES) as session:
            await session.step(0, **tokens(9))
            path = tmp_path / "session.safetensors"
            assert await session.export(path, layers="0") == path.stat().st_size
            async with client.import_session(path) as copy:
                answers = [await each.step(0, **tokens(1)) for each in (session, copy)]
            assert np.array_equal(answers[0].out, answers[1].out)


def test_an_export_that_breaks_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")
    with pytest.raises(UnexpectedAnswer, match="ends after 3"):
        _write_too_little(ExportTarget(path))
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"before"


def _write_too_little(target: ExportTarget) -> None:
    with target.attempt() as writer:
        writer.write(b"new")
        writer.check("4")


def test_an_attempt_overwrites_what_the_one_before_has_written() -> None:
    file = io.BytesIO(b"head")
    file.seek(4)
    target = ExportTarget(file)
    for piece in (b"longer", b"new"):
        with target.attempt() as writer:
            writer.write(piece)
    assert file.getvalue() == b"headnew"
