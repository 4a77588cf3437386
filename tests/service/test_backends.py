"""Choose the backend: by the library, by the operator, or by a request if that is allowed."""

import asyncio

import pytest
import torch

from rope_core import Attend, CosSin, Merge, NoBackend, RopeConfig, Rotate, Shift
from rope_core.backends import ATTEND_ONLY
from service.buffer_pool import BufferPool
from service.device import Cpu
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine
from service.server.app import create_app
from service.settings import Settings
from service.wire import Message, Parameters
from service.wire import safetensors_codec as codec
from tests.service.conftest import asking, post, running
from tests.service.messages import check_problem
from tests.service.test_metrics import scrape
from tests.service.test_routes import heads

Q, K, ROPE = heads(4), heads(2), RopeConfig.of(8)
TENSORS = {
    "/v1/rotate": {"q": Q, "k": K},
    "/v1/attention": {"q": Q, "k": K, "v": K},
    "/v1/shift": {"k": K, "delta": torch.tensor(1)},
    "/v1/merge": {"out": Q[None], "lse": Q[None, ..., 0].contiguous()},
}
CALLS = (Rotate(Q, K, ROPE), Shift(K, torch.tensor(1), ROPE), Merge(Q[None], Q[None, ..., 0]))


@pytest.fixture
async def serving(lifecycle, request):
    async with running(lifecycle, **request.param) as app, asking(app) as client:
        yield client


def with_settings(**settings):
    return pytest.mark.parametrize("serving", [settings], indirect=True, ids=[str(settings)])


async def call(client, path, tensors=None, **params):
    message = Message(TENSORS[path] if tensors is None else tensors, Parameters.of(params))
    return await post(client, codec, path, message)


async def backends(client, **params):
    """Return the backend of every route, or the code of its refusal."""
    backend_of = {}
    for path in TENSORS:
        answer = await call(client, path, **params)
        backend = answer.headers.get("server-timing", "").rpartition("backend;desc=")[2]
        backend_of[path.rpartition("/")[2]] = backend.strip('"') or answer.json()["code"]
    return backend_of


AUTO = {"rotate": "eager", "attention": "sdpa", "shift": "eager", "merge": "eager"}


@with_settings()
async def test_the_one_that_computed_is_told_and_counted(serving):
    assert await backends(serving) == AUTO
    assert await backends(serving, backend=None) == AUTO
    await call(serving, "/v1/attention", softcap=1.0)
    await call(serving, "/v1/attention", TENSORS["/v1/rotate"])  # refused
    positions = {"positions": torch.arange(3)}
    answer = await call(serving, "/v1/cos_sin", positions, rope={"head_dim": 8})
    assert "backend" not in answer.headers["server-timing"]
    seen = await scrape(serving)
    counted = {name: value for name, value in seen.items() if name.startswith("rope_backend")}
    assert counted == {
        'rope_backend_calls_total{backend="eager",operation="rotate"}': 2,
        'rope_backend_calls_total{backend="sdpa",operation="attention"}': 2,
        'rope_backend_calls_total{backend="eager",operation="attention"}': 1,
        'rope_backend_calls_total{backend="eager",operation="shift"}': 2,
        'rope_backend_calls_total{backend="eager",operation="merge"}': 2,
    }


@with_settings(backend="eager")
async def test_a_forced_backend_does_all_that_it_does(serving):
    assert await backends(serving) == dict.fromkeys(AUTO, "eager")


@with_settings(backend="sdpa")
async def test_one_that_attends_only_is_forced_on_attention_alone(serving):
    assert await backends(serving) == AUTO
    answer = await call(serving, "/v1/cos_sin", {"positions": Q[0, 0, 0]}, rope={"head_dim": 8})
    assert answer.status_code == 200
    refusal = await call(serving, "/v1/attention", softcap=1.0)
    check_problem(refusal, 422, "no_backend", "backend sdpa: softcap is not in the operator")


@with_settings(backend="eager", allow_backend=True)
async def test_a_request_chooses_over_what_is_forced(serving):
    assert await backends(serving) == dict.fromkeys(AUTO, "eager")
    assert await backends(serving, backend="sdpa") == {
        "rotate": "no_backend",
        "attention": "sdpa",
        "shift": "no_backend",
        "merge": "no_backend",
    }
    refusal = await call(serving, "/v1/rotate", backend="sdpa")
    check_problem(refusal, 422, "no_backend", "backend sdpa: it computes attention only")


@with_settings(allow_backend=True)
async def test_calls_of_different_backends_at_once_each_get_their_own(serving):
    answers = await asyncio.gather(
        *(call(serving, "/v1/rotate", backend=b) for b in (None, "sdpa", "eager") * 4)
    )
    assert [answer.status_code for answer in answers] == [200, 422, 200] * 4
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1


def test_calls_of_different_backends_never_share_a_run():
    engine = Engine(Cpu(BufferPool(2**20)), max_call_s=60)
    for call in (*CALLS, Attend(Q, K, K, ROPE)):
        keys = {name: engine.job(call, name).batch_key for name in (None, "eager", "sdpa")}
        assert len({*keys.values()}) == 3
        assert keys["eager"] == engine.job(call, "eager").batch_key


@pytest.mark.parametrize("call", CALLS, ids=lambda call: type(call).__name__)
@pytest.mark.parametrize("name", ATTEND_ONLY)
def test_what_a_forced_backend_leaves_to_others_it_never_does(name, call):
    policy = BackendPolicy(name)
    assert policy.choose(call, None) is None
    assert policy.choose(Attend(Q, K, K, ROPE), None) == name
    engine = Engine(Cpu(BufferPool(2**20)), max_call_s=60)
    with pytest.raises(NoBackend, match="it computes attention only"):
        engine.run([engine.job(call, name)])


def test_nothing_is_forced_on_cosines():
    assert BackendPolicy("eager").choose(CosSin(torch.arange(3), ROPE), None) is None


def test_a_backend_that_never_runs_here_stops_the_start(lifecycle, monkeypatch):
    monkeypatch.setattr("rope_core.kernels.runtime.device_type", lambda: "cuda")
    with pytest.raises(SystemExit, match="ROPE_BACKEND is fused, but tensors are on cpu"):
        create_app(Settings(device="cpu", backend="fused"), lifecycle)
