"""Our descriptors are those of the texts, and mean the same on the wire as those of others."""

import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.json_format import ParseError

from docs.protocol import DESCRIPTORS, descriptors
from service.oip.grpc import messages
from service.oip.grpc.messages import METHODS
from tests.conftest import ROOT

LEFT_OUT = {"ModelConfig", "ModelInput", "ModelOutput", "ModelVersionPolicy"}
LEFT_OUT |= {"ModelInstanceGroup", "ModelDynamicBatching"}
"""Messages of which we have a part."""

Fields = dict[str, tuple[int, int, int, str, bool]]

SERVICE_PB2 = """
import sys
from service.oip.grpc import messages
from {module} import {name} as theirs
ours = messages.ModelInferRequest(model_name="rope", raw_input_contents=[b"1234"])
assert theirs.ModelInferRequest.FromString(ours.SerializeToString()).model_name == "rope"
assert theirs.ModelInferRequest is not messages.ModelInferRequest
"""

KSERVE = "kserve.protocol.grpc", "grpc_predict_v2_pb2"
TRITON = "tritonclient.grpc", "service_pb2"


def fields_of(message: DescriptorProto) -> Fields:
    """Return what the wire and JSON know of each field: number, type, label, message, oneof."""
    return {
        f.name: (f.number, f.type, f.label, f.type_name, f.HasField("oneof_index"))
        for f in message.field
    }


def messages_of(file: FileDescriptorProto) -> dict[str, DescriptorProto]:
    def walk(prefix: str, found: DescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
        yield prefix + found.name, found
        for nested in found.nested_type:
            yield from walk(f"{prefix}{found.name}.", nested)

    return dict(pair for message in file.message_type for pair in walk("", message))


def of_module(module: str) -> FileDescriptorProto:
    return FileDescriptorProto.FromString(importlib.import_module(module).DESCRIPTOR.serialized_pb)


@pytest.fixture(scope="module")
def ours() -> dict[str, FileDescriptorProto]:
    return {file.name: file for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file}


def test_the_descriptors_match_the_proto_files():
    made, kept = (
        FileDescriptorSet.FromString(b) for b in (descriptors(), DESCRIPTORS.read_bytes())
    )
    assert made == kept, "run `make docs`"


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("inference.proto", "tritonclient.grpc.service_pb2"),
        ("model_config.proto", "tritonclient.grpc.model_config_pb2"),
    ],
)
def test_fields_are_those_of_triton(ours, file, module):
    own, theirs = messages_of(ours[file]), messages_of(of_module(module))
    for name, message in own.items():
        there = fields_of(theirs[name])
        here = fields_of(message)
        assert here.items() <= there.items(), name
        left = {number for number, *_ in there.values()} - {number for number, *_ in here.values()}
        reserved = {n for each in message.reserved_range for n in range(each.start, each.end)}
        assert left <= reserved, f"{name} says nothing of {left - reserved}"
        assert not left or name in LEFT_OUT
    if file == "inference.proto":
        assert own.keys() == theirs.keys()


def test_data_types_are_those_of_triton(ours):
    (own,), theirs = (
        ours["model_config.proto"].enum_type,
        of_module("tritonclient.grpc.model_config_pb2"),
    )
    (there,) = (each for each in theirs.enum_type if each.name == own.name)
    assert {v.name: v.number for v in own.value} == {v.name: v.number for v in there.value}


def test_methods_are_those_of_triton():
    (service,) = of_module("tritonclient.grpc.service_pb2").service
    assert f"{messages.PACKAGE}.{service.name}" == messages.SERVICE
    assert METHODS.keys() == {each.name for each in service.method}
    for each in service.method:
        method = METHODS[each.name]
        assert f".{method.request.DESCRIPTOR.full_name}" == each.input_type
        assert f".{method.response.DESCRIPTOR.full_name}" == each.output_type
        assert method.streams == each.client_streaming == each.server_streaming
        assert method.path == f"/{messages.SERVICE}/{each.name}"


@pytest.mark.parametrize("names", [TRITON, KSERVE], ids=lambda names: names[0])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_client_of_the_protocol_can_be_imported_beside_it(names, first):
    """In a process of its own: of those clients, only one may."""
    lines = SERVICE_PB2.format(module=names[0], name=names[1]).strip().splitlines()
    if first == "theirs":
        lines[1], lines[2] = lines[2], lines[1]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, check=True)


def test_messages_of_kserve_are_interchangeable_with_ours():
    """What it shares with us has the same numbers and types, but for loading and unloading."""
    script = """
from kserve.protocol.grpc import grpc_predict_v2_pb2 as module
import sys
sys.stdout.buffer.write(module.DESCRIPTOR.serialized_pb)
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    theirs = messages_of(FileDescriptorProto.FromString(ran.stdout))
    file = FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    own = messages_of(next(each for each in file if each.name == "inference.proto"))
    shared = own.keys() & theirs.keys()
    assert {"ModelInferRequest.InferInputTensor", "InferParameter"} <= shared
    for name in shared - {"RepositoryModelLoadRequest", "RepositoryModelUnloadRequest"}:
        here, there = fields_of(own[name]), fields_of(theirs[name])
        for field in here.keys() & there.keys():
            assert here[field] == there[field], f"{name}.{field}"
        numbers = {number for number, *_ in here.values()}
        others = {there[field][0] for field in there.keys() - here.keys()}
        assert not numbers & others, name


def test_a_request_of_triton_is_read_whole():
    pb2 = importlib.import_module("tritonclient.grpc.service_pb2")
    theirs = pb2.ModelInferRequest(model_name="rope", model_version="1", id="ä")
    theirs.parameters["theta"].double_param = 500.0
    theirs.parameters["priority"].uint64_param = 2**64 - 1
    tensor = theirs.inputs.add(name="q", datatype="FP32", shape=[1, -1, 2**62])
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.contents.fp32_contents.extend([0.5, -1.0])
    theirs.outputs.add(name="q").parameters["a"].bool_param = True
    theirs.raw_input_contents.append(b"\0\1")

    ours = messages.ModelInferRequest.FromString(theirs.SerializeToString(deterministic=True))

    assert ours.parameters["theta"].double_param == 500.0
    assert [*ours.inputs[0].shape] == [1, -1, 2**62]
    assert str(ours) == str(theirs)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


def test_a_document_with_unknown_fields_is_an_error():
    assert METHODS["ServerLive"].answer({"live": True}).live is True
    with pytest.raises(ParseError, match="alive"):
        METHODS["ServerLive"].answer({"alive": True})
