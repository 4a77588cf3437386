"""What the command line says about an installation that cannot serve."""

from importlib.metadata import PackageNotFoundError

import pytest

from service import __main__, __version__, installation
from service.settings import Settings


def settings(*arguments):
    return Settings(_cli_parse_args=list(arguments))


@pytest.fixture
def without_grpc(monkeypatch):
    monkeypatch.delenv("ROPE_GRPC_PORT", raising=False)
    monkeypatch.setattr(installation, "GRPC_PACKAGES", ("grpc", "grpc_health", "no_such_package"))


def install_core(monkeypatch, version):
    def find(name):
        assert name == "rope-core"
        if version is None:
            raise PackageNotFoundError
        return version

    monkeypatch.setattr(installation, "version", find)


@pytest.mark.parametrize("version", [None, __version__])
def test_one_version_alone_is_no_conflict(monkeypatch, version):
    install_core(monkeypatch, version)
    assert installation.core_conflict() is None


def test_rope_core_of_another_version_ends_the_process(monkeypatch, capsys):
    install_core(monkeypatch, "9.9.9")
    with pytest.raises(SystemExit, match="2"):
        __main__._check_installation(settings())
    assert capsys.readouterr().err == (
        f"rope-service: rope-core 9.9.9 is installed beside rope-service {__version__}, and both "
        "contain the package rope_core; uninstall rope-core and rope-service, then install "
        "rope-service alone\n"
    )


def test_missing_core_is_a_conflict(monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    assert "the package rope_core is missing" in installation.core_conflict()


def test_a_grpc_port_needs_grpc(monkeypatch, capsys, without_grpc):
    __main__._check_installation(settings())
    monkeypatch.setenv("ROPE_GRPC_PORT", "8001")  # the default, but set
    with pytest.raises(SystemExit, match="2"):
        __main__._check_installation(settings())
    assert "grpc_port is set, but gRPC is not installed" in capsys.readouterr().err


def test_grpc_is_found():
    assert installation.has_grpc()
