"""Regions of shared memory: disabled by default, and enabled by a prefix of names."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from tests.core.oracle import randn
from tests.service.oip.clients.conftest import PREFIX
from tests.service.oip.clients.expected import DTYPES, check_rotated, rotate
from tests.service.oip.clients.forms import array_of, tensor_of

X = randn(2, 3, 4, 8)
POSITIONS = torch.tensor([[0, 5, 2], [9, 7, 1]])


@pytest.fixture
def shared():
    """Return a function that creates regions; the fixture removes them."""
    shared_memory = pytest.importorskip("tritonclient.utils.shared_memory")
    with ExitStack() as stack:

        def create(name, size, prefix=PREFIX):
            region = shared_memory.create_shared_memory_region(name, f"/{prefix}{name}", size)
            stack.callback(shared_memory.destroy_shared_memory_region, region)
            return region

        yield create


def write_tensors(region, *tensors):
    from tritonclient.utils import shared_memory

    shared_memory.set_shared_memory_region(region, [array_of(x) for x in tensors])


def read_tensor(region, x, offset=0):
    """Return the tensor in a region; its shape and dtype are those of x."""
    from tritonclient.utils import shared_memory

    array = shared_memory.get_contents_as_numpy(region, array_of(x).dtype, [*x.shape], offset)
    return tensor_of(np.array(array))


def input_in_region(client, name, x, region, offset=0):
    return client.empty_input(name, x).set_shared_memory(region, x.nbytes, offset)


def output_in_region(client, name, region, size, offset=0):
    output = client.output(name, False)
    output.set_shared_memory(region, size, offset)
    return output


def regions(client, name=""):
    status = client.get_system_shared_memory_status(name)
    return [*status["regions"].values()] if client.wire == "grpc" else status


def test_shared_memory_is_disabled_by_default(client, refused):
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


@pytest.mark.parametrize("service", ["target", "shared_memory_target"])
def test_cuda_shared_memory_is_not_supported(connect, refused, request, service):
    client = connect(request.getfixturevalue(service))
    status = client.get_cuda_shared_memory_status()
    assert not (status["regions"] if client.wire == "grpc" else status)
    with refused("501"):
        client.register_cuda_shared_memory("a", b"A" * 88, 0, 64)
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("a")


@pytest.fixture
def sharing_client(connect, shared_memory_target):
    """A client of the service that shares memory."""
    client = connect(shared_memory_target)
    yield client
    client.unregister_system_shared_memory()


def test_the_extension_is_listed(sharing_client):
    assert "system_shared_memory" in sharing_client.get_server_metadata()["extensions"]


def test_regions_are_registered_and_unregistered(sharing_client, shared, refused):
    shared("a", 4096)
    shared("b", 4096)
    sharing_client.register_system_shared_memory("one", f"/{PREFIX}a", 4096)
    sharing_client.register_system_shared_memory("two", f"/{PREFIX}b", 100, offset=28)
    one = {"name": "one", "key": f"/{PREFIX}a", "offset": 0, "byte_size": 4096}
    two = {"name": "two", "key": f"/{PREFIX}b", "offset": 28, "byte_size": 100}
    assert sorted(regions(sharing_client), key=lambda region: region["name"]) == [one, two]
    assert regions(sharing_client, "two") == [two]
    with pytest.raises(Exception, match="one") as failure:
        sharing_client.register_system_shared_memory("one", f"/{PREFIX}a", 4096)
    assert failure.value.status() in ("400", "StatusCode.ALREADY_EXISTS")
    sharing_client.unregister_system_shared_memory("one")
    sharing_client.unregister_system_shared_memory("one")
    assert regions(sharing_client) == [two]
    with refused("404", "one"):
        regions(sharing_client, "one")
    sharing_client.unregister_system_shared_memory()
    assert regions(sharing_client) == []


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
def test_invalid_regions_are_refused(sharing_client, shared, refused, key, size, offset):
    shared("a", 4096)
    with refused("400"):
        sharing_client.register_system_shared_memory("a", key, size, offset)
    assert regions(sharing_client) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_and_outputs_in_regions(sharing_client, shared, dtype):
    x = X.to(dtype)
    source, target = shared("in", 8192), shared("out", 8192)
    write_tensors(source, x, POSITIONS)
    sharing_client.register_system_shared_memory("in", f"/{PREFIX}in", 8192)
    sharing_client.register_system_shared_memory("out", f"{PREFIX}out", 8192)
    inputs = {
        "q": input_in_region(sharing_client, "q", x, "in"),
        "positions": input_in_region(sharing_client, "positions", POSITIONS, "in", x.nbytes),
    }
    for offset in (0, 512):
        answer = sharing_client.infer(
            "rope", inputs, [output_in_region(sharing_client, "q", "out", 4096, offset)]
        )
        assert not answer.tensors
        (output,) = answer.header["outputs"]
        assert (output["name"], output["shape"]) == ("q", [*x.shape])
        location = {"shared_memory_region": "out", "shared_memory_byte_size": x.nbytes}
        location |= {"shared_memory_offset": offset} if offset else {}
        assert output["parameters"] == location
        check_rotated(read_tensor(target, x, offset), rotate(x, POSITIONS), dtype)
    check_rotated(sharing_client.infer("rope", inputs)["q"], rotate(x, POSITIONS), dtype)


def test_only_some_tensors_in_regions(sharing_client, shared):
    region = shared("some", 8192)
    write_tensors(region, X)
    sharing_client.register_system_shared_memory("some", f"/{PREFIX}some", 4096, offset=0)
    inputs = {"q": X, "k": input_in_region(sharing_client, "k", X, "some"), "v": X}
    plain = sharing_client.infer("rope_attention", {"q": X, "k": X, "v": X}, ["out", "lse"])
    outputs = [output_in_region(sharing_client, "out", "some", 2048, 2048), "lse"]
    answer = sharing_client.infer("rope_attention", inputs, outputs)
    assert torch.equal(answer["lse"], plain["lse"])
    assert torch.equal(read_tensor(region, X, 2048), plain["out"])


def test_ranges_outside_of_the_region_or_of_another_size_are_refused(
    sharing_client, shared, refused
):
    shared("narrow", 4096)
    sharing_client.register_system_shared_memory("narrow", f"/{PREFIX}narrow", X.nbytes)
    x = sharing_client.empty_input("q", X)
    for size, offset in ((X.nbytes, 4), (X.nbytes - 4, 0), (X.nbytes + 4, 0), (X.nbytes, 2**62)):
        with refused("400"):
            sharing_client.infer("rope", {"q": x.set_shared_memory("narrow", size, offset)})
    for size, offset in ((X.nbytes - 4, 0), (X.nbytes, 4), (X.nbytes, 2**62)):
        with refused("400"):
            output = output_in_region(sharing_client, "q", "narrow", size, offset)
            sharing_client.infer("rope", {"q": X}, [output])
    with refused("404", "nowhere"):
        sharing_client.infer("rope", {"q": input_in_region(sharing_client, "q", X, "nowhere")})
    with refused("404", "nowhere"):
        sharing_client.infer(
            "rope", {"q": X}, [output_in_region(sharing_client, "q", "nowhere", X.nbytes)]
        )
