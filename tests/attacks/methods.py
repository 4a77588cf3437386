"""Section M: methods and paths."""

from tests.attacks.requests import INFER, ROTATE, Row, get, post, post_json

ALLOW = {"allow": "POST"}


def not_allowed(id_: str, request: bytes, code: str = "method_not_allowed") -> Row:
    """Return a row with a method that its path does not allow."""
    return Row(id_, request, 405, code, headers=ALLOW)


def not_found(id_: str, path: str) -> Row:
    """Return a row whose path does not exist."""
    return Row(id_, post(ROTATE, path=path), 404, "" if path.startswith("/v2") else "not_found")


def control(id_: str, path: str, status: int) -> Row:
    """Return a row that requests an operation which only the operator may do."""
    return Row(id_, post_json({}, path=path), status)


REGION = "/v2/systemsharedmemory/region/a/register"

ROWS = [
    not_allowed("M01", get("/v1/rotate")),
    not_allowed("M01 infer", get(INFER), ""),
    not_allowed("M02", post(ROTATE, method="PUT")),
    not_allowed("M02 PATCH", post(ROTATE, method="PATCH")),
    not_allowed("M03", get("/v1/rotate", method="DELETE")),
    not_allowed("M04", get("/v1/rotate", method="TRACE")),
    not_allowed("M04 infer", get(INFER, method="TRACE"), ""),
    Row("M04 health", get("/healthz", method="TRACE"), 405, "method_not_allowed"),
    Row("M05", get("a:80", method="CONNECT"), 400, "bad_request", closes=True),
    Row("M05 path", get("/v1/rotate", method="CONNECT"), 400, "bad_request", closes=True),
    Row("M06", get("/v1/rotate", method="FOO"), 400, "bad_request", closes=True),
    Row("M06 lower case", post(ROTATE, method="post"), 400, "bad_request", closes=True),
    not_allowed("M06 other protocol", get("/v1/rotate", method="PROPFIND")),
    Row("M07", post(b"", path="/healthz"), 405, "method_not_allowed", headers={"allow": "GET"}),
    Row("M07 list", post_json({}, path="/v1/presets"), 405, "method_not_allowed"),
    Row("M07 recent", post_json({}, path="/v1/recent"), 405, "method_not_allowed"),
    Row("M07 after", get("/v1/recent?after=1e9"), 400, "bad_query"),
    Row("M07 after huge", get(f"/v1/recent?after={'9' * 4000}"), 400, "bad_query"),
    Row("M07 after twice", get("/v1/recent?after=1&after=2"), 400, "bad_query"),
    Row("M07 unknown", get("/v1/recent?before=1"), 422, "unknown"),
    not_found("M08", "/v1/../../etc/passwd"),
    not_found("M08 of a route", "/v1/../v1/rotate"),
    not_found("M08 dot", "/v1/./rotate"),
    not_found("M08 encoded", "/v1/%2e%2e/%2e%2e/etc/passwd"),
    not_found("M08 backslash", "/v1\\rotate"),
    not_found("M09", "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd/infer"),
    not_found("M10", "/v2/models/rope%00/infer"),
    not_found("M11", "/v2/models/" + "a" * 4000 + "/infer"),
    not_found("M12", "/v2/models/rope/versions/999999999999999999999/infer"),
    not_found("M13", "//v1/rotate"),
    not_found("M13 behind", "/v1/rotate/"),
    not_found("M14", "/v1/%c0%afrotate"),
    not_found("M14 high", "/v2/models/%ff%fe/infer"),
    not_found("M14 percent", "/v1/rotate%"),
    not_found("M14 percent of no digits", "/v1/rotate%zz"),
    not_found("M14 case", "/V1/rotate"),
    Row("M14 decoded", post(ROTATE, path="/v1/%72otate"), 200),
    control("M15", "/v2/repository/models/a/load", 503),
    control("M15 unload", "/v2/repository/models/rope/unload", 503),
    control("M16", REGION, 501),
    Row("M16 names", post_json({"key": "/etc/passwd", "byte_size": 4}, path=REGION), 501),
    control("M16 CUDA", "/v2/cudasharedmemory/region/a/register", 501),
    Row("M17", post_json({"log_verbose_level": 9}, path="/v2/logging"), 501),
    Row("M17 trace", post_json({"trace_file": "/etc/a"}, path="/v2/trace/setting"), 501),
]
