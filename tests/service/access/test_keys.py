"""The keys file: validation, comparison of keys, and reloading."""

import hmac
import os
from hashlib import sha256

import pytest

from service.access import keys as keys_module
from service.access.gate import Gate
from service.access.keys import MAX_FILE_BYTES, MAX_KEYS, BadKeysFile, parse_keys
from service.access.new_key import new_key, run
from service.access.tenant import Scope, Tenant
from service.access.watched_file import LOOK_INTERVAL_S
from service.errors import Unauthenticated
from tests.service.access.keys_files import table

HASH = sha256(b"a").hexdigest()


def test_a_table_defines_a_tenant():
    lines = ('scopes = ["infer", "metrics"]', "weight = 2", "requests_per_s = 10")
    lines += ("bytes_per_s = 1e6", "compute_s_per_s = 0.5", "max_concurrent = 4")
    lines += ("max_sessions = 5", "max_kv_bytes = 6", "max_pinned = 0")
    keys = parse_keys(table("acme", ["old", "new"], *lines) + table("small", ["third"]))
    acme = Tenant("acme", frozenset((Scope.INFER, Scope.METRICS)), 2.0, 10.0, 1e6, 0.5, 4, 5, 6, 0)
    assert keys.find(b"old") == keys.find(b"new") == acme
    assert keys.find(b"third") == Tenant("small")
    assert keys.find(b"ol") is keys.find(b"") is keys.find(b"old ") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a", "not TOML: "),
        ("", "the file must have at least one key, got none"),
        ("[a]", "a.keys: Field required"),
        ("[a]\nkeys = []", "a.keys: Tuple should have at least 1 item"),
        ('[a]\nkeys = ["rope_secret"]', "a.keys.0: String should match pattern"),
        (f'["a b"]\nkeys = ["{HASH}"]', "a b: String should match pattern"),
        (f'[anonymous]\nkeys = ["{HASH}"]', "anonymous: the name is reserved"),
        (f'[a]\nkeys = ["{HASH}", "{HASH.upper()}"]', "a.keys.1: the key is in the file twice"),
        (table("a", ["a"], 'scope = ["infer"]'), "a.scope: Extra inputs are not permitted"),
        (table("a", ["a"], 'scopes = ["root"]'), "a.scopes.0: Input should be 'infer'"),
        (table("a", ["a"], "weight = 0"), "a.weight: Input should be greater than 0"),
        (table("a", ["a"], "weight = nan"), "a.weight: Input should be a finite number"),
        (table("a", ["a"], "max_concurrent = 0"), "a.max_concurrent: Input should be greater"),
        (table("a", ["a"], "max_kv_bytes = -1"), "a.max_kv_bytes: Input should be greater"),
        (
            table("a", map(str, range(MAX_KEYS + 1))),
            f"the file may have at most {MAX_KEYS} keys, got {MAX_KEYS + 1}",
        ),
    ],
)
def test_an_invalid_file_has_a_message_in_one_line(text, complaint):
    with pytest.raises(BadKeysFile) as raised:
        parse_keys(text)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "rope_secret" not in str(raised.value), "a key that was pasted in place of its hash"


def test_all_digests_are_compared_and_in_constant_time(monkeypatch):
    """Every key causes the same comparisons."""
    compared = []

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append((known, digest))
        return hmac.compare_digest(known, digest)

    class Spy:
        compare_digest = staticmethod(compare)

    names = ["a", "b", "c", "d"]
    keys = parse_keys(table("one", names[:2]) + table("two", names[2:]))
    monkeypatch.setattr(keys_module, "hmac", Spy)
    digests = [sha256(name.encode()).digest() for name in names]
    for key in (b"a", b"d", b"x", b""):
        compared.clear()
        keys.find(key)
        assert compared == [(known, sha256(key).digest()) for known in digests]


def test_a_changed_file_is_read_at_the_next_request_after_a_second(tmp_path):
    path, now = tmp_path / "keys.toml", 100.0
    path.write_text(table("one", ["old"]))
    gate = Gate(path, clock=lambda: now)
    assert authorize(gate, "old").name == "one"
    path.write_text(table("one", ["new"]))
    assert authorize(gate, "old").name == "one"
    now += LOOK_INTERVAL_S
    assert authorize(gate, "new").name == "one"
    with pytest.raises(Unauthenticated):
        authorize(gate, "old")


def test_reload_does_not_wait_for_the_next_second(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(table("one", ["old"]))
    gate = Gate(path, clock=lambda: 0.0)
    path.write_text(table("one", ["new"]))
    assert gate.reload()
    assert authorize(gate, "new").name == "one"
    path.write_text("[")
    assert not gate.reload()
    assert authorize(gate, "new").name == "one"
    assert not Gate().reload()


def test_a_mounted_secret_is_replaced_by_a_link(tmp_path):
    """As Kubernetes does: the path contains a symbolic link that is replaced."""
    for folder, key in (("first", "old"), ("second", "new")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys.toml").write_text(table("one", [key]))
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    gate = Gate(tmp_path / "keys.toml")
    (tmp_path / "..data_tmp").symlink_to("second")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    gate.file.next_look = 0.0
    assert authorize(gate, "new").name == "one"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[one]\nkeys = 3", "one.keys"), (b"\xff", "not UTF-8"), (None, "No such file")],
)
def test_an_invalid_new_file_keeps_the_keys_and_is_logged_once(tmp_path, caplog, content, said):
    path = tmp_path / "keys.toml"
    path.write_text(table("one", ["old"]))
    gate = Gate(path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(3):
        gate.file.next_look = 0.0
        assert authorize(gate, "old").name == "one"
    assert len(caplog.records) == 1
    assert said in caplog.text
    path.write_text(table("one", ["newer"]))
    gate.file.next_look = 0.0
    assert authorize(gate, "newer").name == "one"


def test_the_start_fails_with_the_reason(tmp_path):
    with pytest.raises(BadKeysFile, match="No such file"):
        Gate(tmp_path / "missing.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(BadKeysFile, match="at most 1,048,576 bytes"):
        Gate(tmp_path / "large.toml")


def test_new_keys_are_long_differ_and_fit_the_file(capsys):
    (key, lines), (other, _) = (new_key("acme", ["infer", "admin"]) for _ in range(2))
    assert key != other
    assert len(key) >= len("rope_") + 256 / 6
    assert key not in lines
    assert parse_keys(lines).find(key.encode()) == Tenant(
        "acme", frozenset((Scope.INFER, Scope.ADMIN))
    )
    printed = run(["acme"])
    first, _, rest = printed.partition("\n")
    assert parse_keys(rest).find(first.encode()) == Tenant("acme")
    for wrong in (["a b"], ["a", "--scopes", "root"], []):
        with pytest.raises(SystemExit):
            run(wrong)
    capsys.readouterr()


def authorize(gate: Gate, key: str) -> Tenant:
    return gate.authorize("/v1/rotate", [f"Bearer {key}".encode()])
