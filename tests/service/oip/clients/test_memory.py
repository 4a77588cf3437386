"""Regions of shared memory: refused where they are off, and served where a prefix is told."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from tests.core.oracle import randn
from tests.service.oip.clients.conftest import PREFIX
from tests.service.oip.clients.expected import DTYPES, check_rotated, turned
from tests.service.oip.clients.forms import array_of, tensor_of

X = randn(2, 3, 4, 8)
PLACES = torch.tensor([[0, 5, 2], [9, 7, 1]])


@pytest.fixture
def shared():
    """Make regions, gone with the test."""
    memory = pytest.importorskip("tritonclient.utils.shared_memory")
    with ExitStack() as stack:

        def made(name, size, prefix=PREFIX):
            region = memory.create_shared_memory_region(name, f"/{prefix}{name}", size)
            stack.callback(memory.destroy_shared_memory_region, region)
            return region

        yield made


def put(region, *tensors):
    from tritonclient.utils import shared_memory

    shared_memory.set_shared_memory_region(region, [array_of(x) for x in tensors])


def got(region, x, offset=0):
    """Return what is in a region, as the dtype and of the shape of x."""
    from tritonclient.utils import shared_memory

    array = shared_memory.get_contents_as_numpy(region, array_of(x).dtype, [*x.shape], offset)
    return tensor_of(np.array(array))


def placed(client, name, x, region, offset=0):
    return client.empty_input(name, x).set_shared_memory(region, x.nbytes, offset)


def placed_output(client, name, region, size, offset=0):
    output = client.output(name, False)
    output.set_shared_memory(region, size, offset)
    return output


def regions(client, name=""):
    told = client.get_system_shared_memory_status(name)
    return [*told["regions"].values()] if client.wire == "grpc" else told


def test_it_is_off(client, refused):
    for method, arguments in (
        ("register", ("a", f"/{PREFIX}a", 64)),
        ("unregister", ()),
        ("unregister", ("a",)),
    ):
        with refused("501"):
            getattr(client, f"{method}_system_shared_memory")(*arguments)
    with refused("501"):
        client.get_system_shared_memory_status()
    assert client.is_server_ready()


@pytest.mark.parametrize("service", ["target", "other"])
def test_memory_of_cuda_is_not_served(connect, refused, request, service):
    client = connect(request.getfixturevalue(service))
    told = client.get_cuda_shared_memory_status()
    assert not (told["regions"] if client.wire == "grpc" else told)
    with refused("501"):
        client.register_cuda_shared_memory("a", b"A" * 88, 0, 64)
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("a")


@pytest.fixture
def asked(connect, other):
    """A client of the service that shares memory."""
    client = connect(other)
    yield client
    client.unregister_system_shared_memory()


def test_it_is_told(asked):
    assert "system_shared_memory" in asked.get_server_metadata()["extensions"]


def test_regions_come_and_go(asked, shared, refused):
    shared("a", 4096)
    shared("b", 4096)
    asked.register_system_shared_memory("one", f"/{PREFIX}a", 4096)
    asked.register_system_shared_memory("two", f"/{PREFIX}b", 100, offset=28)
    one = {"name": "one", "key": f"/{PREFIX}a", "offset": 0, "byte_size": 4096}
    two = {"name": "two", "key": f"/{PREFIX}b", "offset": 28, "byte_size": 100}
    assert sorted(regions(asked), key=lambda each: each["name"]) == [one, two]
    assert regions(asked, "two") == [two]
    with pytest.raises(Exception, match="one") as failure:
        asked.register_system_shared_memory("one", f"/{PREFIX}a", 4096)
    assert failure.value.status() in ("400", "StatusCode.ALREADY_EXISTS")
    asked.unregister_system_shared_memory("one")
    asked.unregister_system_shared_memory("one")
    assert regions(asked) == [two]
    with refused("404", "one"):
        regions(asked, "one")
    asked.unregister_system_shared_memory()
    assert regions(asked) == []


@pytest.mark.parametrize(
    ("key", "size", "offset"),
    [
        (f"/{PREFIX}nowhere", 64, 0),
        ("/another-service", 64, 0),
        (f"/{PREFIX}../../etc/passwd", 64, 0),
        ("/", 64, 0),
        ("", 64, 0),
        (f"/{PREFIX}a", 0, 0),
        (f"/{PREFIX}a", 4097, 0),
        (f"/{PREFIX}a", 64, 4090),
        (f"/{PREFIX}a", 64, 2**64 - 32),
    ],
    ids=range(9),
)
def test_what_is_no_region(asked, shared, refused, key, size, offset):
    shared("a", 4096)
    with refused("400"):
        asked.register_system_shared_memory("a", key, size, offset)
    assert regions(asked) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_and_outputs_in_regions(asked, shared, dtype):
    x = X.to(dtype)
    into, out = shared("in", 8192), shared("out", 8192)
    put(into, x, PLACES)
    asked.register_system_shared_memory("in", f"/{PREFIX}in", 8192)
    asked.register_system_shared_memory("out", f"{PREFIX}out", 8192)
    inputs = {
        "x": placed(asked, "x", x, "in"),
        "positions": placed(asked, "positions", PLACES, "in", x.nbytes),
    }
    for offset in (0, 512):
        answer = asked.infer("rope", inputs, [placed_output(asked, "rotated", "out", 4096, offset)])
        assert not answer.tensors
        (told,) = answer.head["outputs"]
        assert (told["name"], told["shape"]) == ("rotated", [*x.shape])
        where = {"shared_memory_region": "out", "shared_memory_byte_size": x.nbytes}
        where |= {"shared_memory_offset": offset} if offset else {}
        assert told["parameters"] == where
        check_rotated(got(out, x, offset), turned(x, PLACES), dtype)
    check_rotated(asked.infer("rope", inputs)["rotated"], turned(x, PLACES), dtype)


def test_some_in_regions_and_some_not(asked, shared):
    region = shared("some", 8192)
    put(region, X)
    asked.register_system_shared_memory("some", f"/{PREFIX}some", 4096, offset=0)
    inputs = {"q": X, "k": placed(asked, "k", X, "some"), "v": X}
    plain = asked.infer("rope_attention", {"q": X, "k": X, "v": X}, ["output", "lse"])
    outputs = [placed_output(asked, "output", "some", 2048, 2048), "lse"]
    answer = asked.infer("rope_attention", inputs, outputs)
    assert torch.equal(answer["lse"], plain["lse"])
    assert torch.equal(got(region, X, 2048), plain["output"])


def test_ranges_that_do_not_fit(asked, shared, refused):
    shared("narrow", 4096)
    asked.register_system_shared_memory("narrow", f"/{PREFIX}narrow", X.nbytes)
    far = asked.empty_input("x", X)
    for size, offset in ((X.nbytes, 4), (X.nbytes - 4, 0), (X.nbytes + 4, 0), (X.nbytes, 2**62)):
        with refused("400"):
            asked.infer("rope", {"x": far.set_shared_memory("narrow", size, offset)})
    for size, offset in ((X.nbytes - 4, 0), (X.nbytes, 4), (X.nbytes, 2**62)):
        with refused("400"):
            output = placed_output(asked, "rotated", "narrow", size, offset)
            asked.infer("rope", {"x": X}, [output])
    with refused("404", "nowhere"):
        asked.infer("rope", {"x": placed(asked, "x", X, "nowhere")})
    with refused("404", "nowhere"):
        asked.infer("rope", {"x": X}, [placed_output(asked, "rotated", "nowhere", X.nbytes)])
