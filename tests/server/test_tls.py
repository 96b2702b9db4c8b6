"""The server's certificate: what it covers, who may read its key, when it is made anew."""

import os
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from glmimage.config import load_settings
from glmimage.errors import InvalidSettings
from glmimage.server.tls import LEAF_LIFE, RENEW_BEFORE, prepare_tls

NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path):
    return load_settings(data_dir=tmp_path / "data")


def handshake(files, name):
    """Let a client that trusts the CA alone connect under `name`; return its view of the leaf."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(files.cert, files.key)
    client_context = ssl.create_default_context(cafile=files.ca)
    ours, theirs = socket.socketpair()

    def serve():
        try:
            server_context.wrap_socket(ours, server_side=True).close()
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_context.wrap_socket(theirs, server_hostname=name) as client:
            return client.getpeercert()
    finally:
        thread.join()


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "127.0.0.1",
        "::1",
        socket.gethostname(),
        "fal.run",
        "queue.fal.run",
        "rest.fal.ai",
        "rest.alpha.fal.ai",
        "v3.fal.media",
        "falrun.com",
        "queue.falrun.com",
        "api.fal.ai",
    ],
)
def test_clients_that_trust_the_ca_accept_every_name(settings, name):
    assert handshake(prepare_tls(settings), name)


def test_a_foreign_name_is_not_covered(settings):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(prepare_tls(settings), "example.com")


def test_names_of_the_deployment_are_added(tmp_path):
    settings = load_settings(
        data_dir=tmp_path / "data",
        host="10.1.2.3",
        public_url="https://bilder.example.org:8443",
        tls_names="gpu-1, 192.168.0.7,, müller.example",
    )
    files = prepare_tls(settings)
    for name in ("10.1.2.3", "bilder.example.org", "gpu-1", "192.168.0.7", "müller.example"):
        assert handshake(files, name)


def test_private_keys_are_for_the_owner_alone(settings):
    previous = os.umask(0)
    try:
        files = prepare_tls(settings)
    finally:
        os.umask(previous)
    folder = files.cert.parent
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "server.pem": 0o644,
        "server-key.pem": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def read(files):
    return files.cert.read_bytes(), files.ca.read_bytes()


def test_a_second_start_changes_nothing(settings):
    before = read(prepare_tls(settings, NOW))
    assert read(prepare_tls(settings, NOW + LEAF_LIFE - RENEW_BEFORE - timedelta(days=1))) == before


def test_the_leaf_is_renewed_in_time_under_the_same_ca(settings):
    leaf, ca = read(prepare_tls(settings, NOW))
    later = NOW + LEAF_LIFE - RENEW_BEFORE + timedelta(days=1)
    new_leaf, same_ca = read(prepare_tls(settings, later))
    assert new_leaf != leaf
    assert same_ca == ca
    renewed = x509.load_pem_x509_certificate(new_leaf)
    assert renewed.not_valid_before_utc <= later
    # a certificate counts in whole seconds
    assert renewed.not_valid_after_utc == (later + LEAF_LIFE).replace(microsecond=0)


def test_a_ca_that_cannot_cover_a_new_leaf_is_replaced(settings):
    _, ca = read(prepare_tls(settings, NOW))
    assert read(prepare_tls(settings, NOW + timedelta(days=3600)))[1] != ca


@pytest.mark.parametrize("damage", ["cut", "removed", "of another key"])
@pytest.mark.parametrize("name", ["server.pem", "server-key.pem"])
def test_a_damaged_leaf_is_replaced_under_the_same_ca(settings, tmp_path, name, damage):
    files = prepare_tls(settings)
    ca = files.ca.read_bytes()
    path = files.cert.parent / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "removed":
        path.unlink()
    else:
        other = prepare_tls(load_settings(data_dir=tmp_path / "other"))
        path.write_bytes((other.cert.parent / name).read_bytes())
    assert handshake(prepare_tls(settings), "fal.run")
    assert files.ca.read_bytes() == ca


def test_a_new_name_makes_a_new_leaf(settings, tmp_path):
    leaf, ca = read(prepare_tls(settings))
    changed = load_settings(data_dir=settings.data_dir, tls_names="gpu-1")
    new_leaf, same_ca = read(prepare_tls(changed))
    assert (new_leaf != leaf, same_ca == ca) == (True, True)


def test_a_certificate_of_the_operator_is_used_as_it_is(settings, tmp_path):
    made = prepare_tls(settings)
    given = load_settings(data_dir=tmp_path / "other", tls_cert=made.cert, tls_key=made.key)
    files = prepare_tls(given)
    assert (files.cert, files.key, files.ca) == (made.cert, made.key, None)
    assert not (tmp_path / "other").exists()


def test_a_certificate_that_cannot_be_used_is_refused(settings, tmp_path):
    made = prepare_tls(settings)
    absent = tmp_path / "absent.pem"
    locked = tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for cert, key, says in [
        (made.cert, None, "GLMIMAGE_TLS_KEY is missing"),
        (None, made.key, "GLMIMAGE_TLS_CERT is missing"),
        (absent, made.key, f"GLMIMAGE_TLS_CERT is '{absent}'"),
        (made.cert, made.ca, "are not a certificate and its private key"),
        (made.ca, made.key, "are not a certificate and its private key"),
        (made.cert, locked, "without a password"),
    ]:
        with pytest.raises(InvalidSettings, match=says):
            prepare_tls(load_settings(data_dir=tmp_path / "other", tls_cert=cert, tls_key=key))


def test_a_name_that_no_certificate_can_hold_is_refused(tmp_path):
    settings = load_settings(data_dir=tmp_path, tls_names="a" * 64)
    with pytest.raises(InvalidSettings, match="GLMIMAGE_TLS_NAMES"):
        prepare_tls(settings)
