"""Writes the descriptors of the gRPC protocol beside its texts: `python docs/protocol.py`."""

import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parents[1] / "service" / "oip" / "grpc" / "protos"
DESCRIPTORS = PROTOS / "protocol.binpb"


def descriptors() -> bytes:
    """Return the serialized FileDescriptorSet of the `.proto` texts."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / DESCRIPTORS.name
        texts = sorted(file.name for file in PROTOS.glob("*.proto"))
        if protoc.main(
            ["protoc", f"--proto_path={PROTOS}", f"--descriptor_set_out={made}", *texts]
        ):
            raise SystemExit("protoc refuses the texts")
        return made.read_bytes()


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(descriptors())
