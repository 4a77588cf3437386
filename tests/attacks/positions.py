"""Section P: positions and the base of the frequencies. Section C: tables of cos and sin."""

from tests.attacks.requests import Row, post, post_json

Q = [[[1.0, 0.0]], [[1.0, 0.0]]]


def placed(id_: str, positions: object, code: str = "shape") -> Row:
    """Return a row whose positions are not valid for two tokens."""
    return Row(id_, post_json({"q": Q, "positions": positions}), 422, code)


def based(id_: str, theta: object) -> Row:
    """Return a row whose base of the frequencies is not valid."""
    return Row(id_, post_json({"q": Q, "rope": {"theta": theta}}), 422, "config")


def table(id_: str, head_dim: object, positions: object = (0, 1), status: int = 422) -> Row:
    """Return a row that requests a table of cos and sin."""
    code = {422: "config", 413: "too_large"}.get(status, "")
    rope = {"head_dim": head_dim}
    return Row(
        id_, post_json({"positions": positions, "rope": rope}, path="/v1/cos_sin"), status, code
    )


ROWS = [
    # docs/api.md: negative positions are legal, and none beyond 2**53
    Row("P01", post_json({"q": Q, "positions": [0, -1]}), 200),
    placed("P02", [0, 2**63]),
    placed("P03", [0, 2**64]),
    placed("P04", [0, 2**53 + 1]),
    placed("P04 -2**53 - 1", [0, -(2**53) - 1]),
    Row("P04 2**53", post_json({"q": Q, "positions": [-(2**53), 2**53]}), 200),
    placed("P05", [0, 0.5]),
    placed("P06", [False, True]),
    placed("P07", [0]),
    placed("P08", [0, 1, 2]),
    placed("P09", {"0": 0, "1": 1}, "unknown"),
    placed("P10", [[], []]),
    placed("P10 one", [[]]),
    placed("P10 number", 0, "unknown"),
    placed("P10 -2**63 - 1", [0, -(2**63) - 1]),
    based("P11", 0),
    based("P12", -1),
    based("P13", 1e-320),
    based("P14", 1e308),
    Row("P14 1e999", post(b'{"q": [[[1, 0]]], "rope": {"theta": 1e999}}'), 400, "bad_message"),
    Row("P14 NaN", post(b'{"q": [[[1, 0]]], "rope": {"theta": NaN}}'), 400, "bad_message"),
    based("P14 10**400", 10**300),
    based("P15", "10000"),
    based("P16", True),
    based("P17", None),
    based("P18", [10000]),
    Row("P19", post_json({"q": Q, "rope": {"layout": "x" * 2**12}}), 422, "config"),
    Row("P19 code", post_json({"q": Q, "rope": {"rope_type": "__class__"}}), 422, "config"),
    Row("P19 preset", post_json({"q": Q, "rope": "../../etc/passwd"}), 422, "config"),
    Row("P19 dim", post_json({"q": Q, "rope": {"rotary_dim": 2**64}}), 422, "config"),
    Row(
        "P19 scale",
        post_json({"q": Q, "rope": {"rope_type": "linear", "factor": 0}}),
        422,
        "config",
    ),
    table("C01", 2**31, status=413),
    table("C01 8193", 8193, status=413),
    table("C01 8192", 8192, [0], status=200),
    table("C02", 2**62, status=413),
    table("C02 2**64", 2**64),
    Row(
        "C02 rotary_dim",
        post_json(
            {"positions": [0], "rope": {"head_dim": 4, "rotary_dim": 2**40}}, path="/v1/cos_sin"
        ),
        413,
        "too_large",
    ),
    Row("C02 rotate", post_json({"q": Q, "rope": {"head_dim": 2**40}}), 422, "config"),
    table("C03", 3),
    table("C04", 0),
    table("C05", -2),
    table("C06", 65536, [*range(100_000)], 413),
    table("C06 within", 8192, [*range(100_000)], 413),
    table("C07", 4, [], 200),
]
