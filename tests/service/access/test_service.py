"""A service process with a keys file."""

import signal

import grpc
import httpx
import pytest

from service import __main__ as command_line
from service.access.keys import parse_keys
from service.access.tenant import Tenant
from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS
from service.server.bootstrap import build_service
from service.settings import Settings
from tests.conftest import Serve
from tests.service.access.keys_files import INFER, write_all
from tests.waiting import wait_until


def test_keys_are_checked_on_both_ports_and_reloaded(serve: Serve, tmp_path):
    path = write_all(tmp_path / "keys.toml")
    with serve(ROPE_KEYS_FILE=str(path), ROPE_HTTP_HOST="0.0.0.0") as started:
        with grpc.insecure_channel(started.grpc_target) as channel:
            ask = channel.unary_unary(METHODS["ServerMetadata"].path)
            with pytest.raises(grpc.RpcError) as refused:
                ask(b"")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert ask(b"", metadata=[("authorization", f"Bearer {INFER}")])
        assert httpx.get(f"{started.url}/v1/presets").status_code == 401
        headers = {"authorization": f"Bearer {INFER}"}
        with httpx.Client(base_url=started.url, headers=headers) as client:
            for _ in range(3):
                assert client.post("/v1/rotate", json={"q": [[[1.0, 2.0]]]}).status_code == 200
            started.process.send_signal(signal.SIGHUP)  # nothing has changed, but the file is read
            wait_until(lambda: "keys were reloaded" in serve.last_log())
            write_all(path, "another-key")
            wait_until(lambda: client.get("/v1/presets").status_code == 401)
        log = serve.last_log()
        assert '"status":401' in log
        assert INFER not in log
        warnings = [line for line in log.splitlines() if '"level":"warning"' in line]
        assert len(warnings) == 1
        assert "listens on 0.0.0.0 with no TLS" in warnings[0]


def test_the_start_fails_in_one_line_for_an_invalid_keys_file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text("[a]\nkeys = []\n")
    with pytest.raises(SystemExit) as ended:
        build_service(Settings(device="cpu", keys_file=path), Lifecycle())
    assert str(ended.value).startswith(f"rope-service: ROPE_KEYS_FILE: {path}: a.keys: ")
    assert "\n" not in str(ended.value)


def test_the_command_line_makes_a_key(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rope-service", "new-key", "acme"])
    command_line.main()
    key, _, lines = capsys.readouterr().out.partition("\n")
    assert parse_keys(lines).find(key.encode()) == Tenant("acme")
