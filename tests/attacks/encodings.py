"""Section E: media types and content codings. No body is unpickled, whatever its type."""

import gzip
import io
import pickle
import zipfile

from tests.attacks.requests import (
    INFER,
    JSON,
    MAX_JSON_BYTES,
    OCTETS,
    ROTATE,
    SAFETENSORS,
    Row,
    post,
    send,
)

GZIP = "Content-Encoding: gzip"
IDENTITY = {"accept-encoding": "identity"}
CODINGS = {"accept-encoding": "gzip, deflate"}


def unsupported(id_: str, request: bytes) -> Row:
    """Return a row whose media type or coding is not supported."""
    return Row(id_, request, 415, "unsupported_media_type", headers=IDENTITY)


def coded(id_: str, body: bytes, coding: str = "gzip") -> Row:
    """Return a row of `/v1`, which supports no coding."""
    return unsupported(id_, post(body, f"Content-Encoding: {coding}"))


def coded_infer(id_: str, body: bytes, status: int = 400, coding: str = "gzip") -> Row:
    """Return a row of `/v2`, which supports gzip and deflate."""
    return Row(id_, post(body, f"Content-Encoding: {coding}", path=INFER), status)


def torch_archive() -> bytes:
    """Return a file in the format of `torch.save`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"q": [1.0]}))
    return out.getvalue()


PICKLE = b"cos\nsystem\n(S'touch /tmp/attacked'\ntR."
NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n" + PICKLE
FORM = "Content-Type: multipart/form-data; boundary=" + "-" * 70
MULTIPART = b"-" * 2**20 + b'\r\nContent-Disposition: form-data; name="q"\r\n\r\n1\r\n'
ZIPPED = gzip.compress(ROTATE)
BOMB = gzip.compress(bytes(16 * MAX_JSON_BYTES))

ROWS = [
    unsupported("E01", send(ROTATE)),
    unsupported("E02", send(ROTATE, "Content-Type: text/plain")),
    unsupported("E02 empty", send(ROTATE, "Content-Type:")),
    unsupported("E02 list", send(ROTATE, "Content-Type: application/json, text/plain")),
    unsupported("E03", send(ROTATE, JSON + "; charset=utf-16")),
    unsupported("E03 high byte", send(ROTATE, JSON + "\xff")),
    unsupported("E04", send(PICKLE, "Content-Type: application/python-pickle")),
    unsupported("E05", send(torch_archive(), OCTETS)),
    Row("E05 as safetensors", send(torch_archive(), SAFETENSORS), 400, "bad_message"),
    Row("E06", send(MULTIPART, FORM), 415, "unsupported_media_type", closes=True, headers=IDENTITY),
    unsupported("E07", send(NPY, OCTETS)),
    Row("E07 as safetensors", send(NPY, SAFETENSORS), 400, "bad_message"),
    coded("E08", ROTATE, "br"),
    Row("E08 infer", post(ROTATE, "Content-Encoding: br", path=INFER), 415, headers=CODINGS),
    coded("E08 list", ROTATE, "identity, gzip"),
    coded("E08 unknown", ROTATE, "x" * 2**12),
    coded("E09", b"not gzip"),
    coded_infer("E09 infer", b"not gzip"),
    coded_infer("E09 empty", b""),
    coded("E10", ZIPPED[:-9]),
    coded_infer("E10 infer", ZIPPED[:-9]),
    coded("E11", ZIPPED + b"garbage"),
    coded_infer("E11 infer", ZIPPED + b"garbage"),
    coded_infer("E11 two members", ZIPPED + ZIPPED),
    coded("E12", BOMB),
    coded_infer("E12 infer", BOMB, 413),
    coded("E13", gzip.compress(BOMB), "gzip, gzip"),
    coded_infer("E13 infer", gzip.compress(BOMB), 415, "gzip, gzip"),
    coded_infer("E13 named once", gzip.compress(BOMB)),
    Row("E13 fields", post(ZIPPED, GZIP, GZIP, path=INFER), 400, closes=True),
    Row("E14", send(ROTATE, JSON, "Content-Type: text/plain"), 400, "bad_header", closes=True),
    Row("E14 equal", send(ROTATE, JSON, JSON), 400, "bad_header", closes=True),
    Row("E14 other last", send(ROTATE, SAFETENSORS, JSON), 400, "bad_header", closes=True),
]
