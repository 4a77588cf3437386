"""Certificates are reloaded when their files change; files that cannot be used are ignored."""

import os
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from service.access.certificates import CertificateError, Certificates, TlsFiles
from service.access.watched_file import LOOK_INTERVAL_S, WatchedFiles
from tests.clock import Clock
from tests.service.certificates import Authority, write_key


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    """The files of a service, in a folder of their own."""
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    copy(authority.issue("first"), files)
    return files


def copy(source: TlsFiles, target: TlsFiles) -> None:
    shutil.copy(source.certificate, target.certificate)
    shutil.copy(source.key, target.key)


def test_watched_files(tmp_path: Path, clock: Clock):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    watched = WatchedFiles([one, other], clock())
    one.write_text("longer")
    assert not watched.have_changed(clock()), "a second has not passed"
    clock.now += LOOK_INTERVAL_S
    assert watched.have_changed(clock())
    clock.now += LOOK_INTERVAL_S
    assert not watched.have_changed(clock())
    other.write_text("a")  # it was missing
    clock.now += LOOK_INTERVAL_S
    assert watched.have_changed(clock())
    modified_ns = one.stat().st_mtime_ns
    replacement = tmp_path / "replacement"
    replacement.write_text("LONGER")
    os.utime(replacement, ns=(modified_ns, modified_ns))
    replacement.rename(one)  # the same size and time, but another file
    clock.now += LOOK_INTERVAL_S
    assert watched.have_changed(clock())
    one.unlink()
    clock.now += LOOK_INTERVAL_S
    assert watched.have_changed(clock())


def test_a_link_that_is_replaced(authority: Authority, tmp_path: Path, clock: Clock):
    """As Kubernetes replaces a secret: `tls.crt` is a link to `..data/tls.crt`."""
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        copy(authority.issue(name), TlsFiles(folder / "tls.crt", folder / "tls.key"))
    data, files = tmp_path / "..data", TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    data.symlink_to("first")
    files.certificate.symlink_to("..data/tls.crt")
    files.key.symlink_to("..data/tls.key")
    certificates = Certificates(files, clock)
    first = certificates.current()
    (tmp_path / "..new").symlink_to("second")
    (tmp_path / "..new").rename(data)
    assert certificates.current() is first
    clock.now += LOOK_INTERVAL_S
    second = certificates.current()
    assert second.chain_pem == (tmp_path / "second" / "tls.crt").read_bytes() != first.chain_pem
    clock.now += LOOK_INTERVAL_S
    assert certificates.current() is second


def test_bad_files_change_nothing(
    authority: Authority, files: TlsFiles, clock: Clock, caplog: pytest.LogCaptureFixture
):
    certificates = Certificates(files, clock)
    first, second = certificates.current(), authority.issue("second")
    shutil.copy(second.certificate, files.certificate)  # its key comes later
    clock.now += LOOK_INTERVAL_S
    assert certificates.current() is first
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "the certificate was not reloaded" in record.message
    clock.now += LOOK_INTERVAL_S
    assert certificates.current() is first
    assert len(caplog.records) == 1, "said once"
    shutil.copy(second.key, files.key)
    clock.now += LOOK_INTERVAL_S
    assert certificates.current().key_pem == second.key.read_bytes()


def test_reload_does_not_wait_for_the_next_second(
    authority: Authority, files: TlsFiles, clock: Clock
):
    certificates = Certificates(files, clock)
    copy(authority.issue("second"), files)
    first = certificates.current()
    certificates.reload()
    assert certificates.current() is not first


def test_files_that_cannot_be_used(authority: Authority, files: TlsFiles, tmp_path: Path):
    other, missing, text = authority.issue("other"), tmp_path / "missing", tmp_path / "text"
    text.write_text("no certificate")
    encrypted = tmp_path / "encrypted.key"
    write_key(encrypted, ec.generate_private_key(ec.SECP256R1()), password=b"secret")
    pair = f"{files.certificate} and "
    for changed, message in (
        (files._replace(certificate=missing), f"cannot read {missing}: No such file"),
        (files._replace(key=missing), f"cannot read {missing}: No such file"),
        (
            files._replace(key=other.key),
            f"{pair}{other.key} are not a certificate and its private key",
        ),
        (files._replace(key=text), f"{pair}{text} are not a certificate and its private key"),
        (files._replace(key=encrypted), f"{pair}{encrypted} .*: the key is encrypted"),
        (files._replace(client_ca=text), f"{text} is not a file of CA certificates"),
        (files._replace(client_ca=tmp_path), f"cannot read {tmp_path}: Is a directory"),
    ):
        with pytest.raises(CertificateError, match=message) as failure:
            Certificates(changed)
        assert "\n" not in str(failure.value)


def test_the_context(authority: Authority, files: TlsFiles):
    context = Certificates(files).current().context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    asking = Certificates(files._replace(client_ca=authority.file)).current().context
    assert asking.verify_mode is ssl.CERT_REQUIRED
