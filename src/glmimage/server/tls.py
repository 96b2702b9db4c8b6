"""A certificate for the server, from a local CA that is made once and kept in the data folder.

Clients of fal insist on https, and some of their hosts are constants, so the certificate names
those too: it is trusted only where somebody was told to trust the CA.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..atomic_file import replace_file
from ..config import Settings
from ..errors import InvalidSettings
from ..fal_hosts import CERTIFICATE_NAMES

EcKey = ec.EllipticCurvePrivateKey
CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=397)  # browsers refuse longer ones
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class TlsFiles:
    """Hold the paths of a certificate with its chain, its key, and the CA (None: not ours)."""

    cert: Path
    key: Path
    ca: Path | None


def ca_file(data_dir: Path) -> Path:
    """Return where the local CA's certificate lies, made or not."""
    return data_dir / "tls" / "ca.pem"


def prepare_tls(settings: Settings, now: datetime | None = None) -> TlsFiles:
    """Return the files to serve with, making or renewing what is missing, old or wrong.

    Raises InvalidSettings when a certificate that was set cannot be used.
    """
    if settings.tls_cert is not None or settings.tls_key is not None:
        return _given_files(settings.tls_cert, settings.tls_key)
    now = now or datetime.now(UTC)
    folder = settings.data_dir / "tls"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = TlsFiles(folder / "server.pem", folder / "server-key.pem", ca_file(settings.data_dir))
    ca, ca_key = _load_pair(folder / "ca.pem", folder / "ca-key.pem")
    if not isinstance(ca_key, EcKey) or ca is None or _ends_soon(ca, now + LEAF_LIFE):
        ca, ca_key = _make_ca(now)
        # the key first: a certificate without its key would be replaced, and trust with it
        replace_file(folder / "ca-key.pem", _key_bytes(ca_key), 0o600)
        replace_file(folder / "ca.pem", ca.public_bytes(serialization.Encoding.PEM), 0o644)
    names = certificate_names(settings)
    leaf, _ = _load_pair(files.cert, files.key)
    if leaf is None or not _serves(leaf, ca, names, now):
        leaf, leaf_key = _make_leaf(ca, ca_key, names, now)
        chain = [part.public_bytes(serialization.Encoding.PEM) for part in (leaf, ca)]
        replace_file(files.key, _key_bytes(leaf_key), 0o600)
        replace_file(files.cert, b"".join(chain), 0o644)
    return files


def certificate_names(settings: Settings) -> list[str]:
    """List the names and addresses that the certificate covers, without repeats."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    if settings.host not in ("0.0.0.0", "::"):
        names.append(settings.host)
    if settings.public_url and (public_name := urlsplit(settings.public_url).hostname):
        names.append(public_name)
    names += [name.strip() for name in settings.tls_names.split(",")]
    return list(dict.fromkeys(name.lower() for name in (*names, *CERTIFICATE_NAMES) if name))


def _given_files(cert: Path | None, key: Path | None) -> TlsFiles:
    for name, path in (("GLMIMAGE_TLS_CERT", cert), ("GLMIMAGE_TLS_KEY", key)):
        if path is None:
            raise InvalidSettings(f"{name} is missing; a certificate and its key go together.")
        if not path.expanduser().is_file():
            raise InvalidSettings(f"{name} is '{path}'; there is no such file.")
    assert cert is not None and key is not None
    cert, key = cert.expanduser(), key.expanduser()
    if _load_pair(cert, key) == (None, None):
        raise InvalidSettings(
            f"'{cert}' and '{key}' are not a certificate and its private key, as PEM files "
            "without a password."
        )
    return TlsFiles(cert, key, None)


def _load_pair(
    cert_path: Path, key_path: Path
) -> tuple[x509.Certificate, PrivateKeyTypes] | tuple[None, None]:
    """Read a certificate and its key; (None, None) when one is absent, damaged or another's."""
    try:
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None, None
    if cert.public_key() != key.public_key():
        return None, None
    return cert, key


def _make_ca(now: datetime) -> tuple[x509.Certificate, EcKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # the name tells two machines' CAs apart in a trust store
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "glmimage"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"glmimage local CA, {socket.gethostname()}"),
        ]
    )
    usage = _key_usage(signs_certificates=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    ca = (
        _builder(name, name, key, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return ca, key


def _make_leaf(
    ca: x509.Certificate, ca_key: EcKey, names: list[str], now: datetime
) -> tuple[x509.Certificate, EcKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "glmimage server")])
    issuer_key = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    server_auth = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key)
    leaf = (
        _builder(subject, ca.subject, key, now, LEAF_LIFE)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(server_auth, critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return leaf, key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EcKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),  # a client's clock may be slow
        not_valid_after=now + life,
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: list[str]) -> list[x509.GeneralName]:
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                general.append(x509.DNSName(name.encode("idna").decode()))
            except UnicodeError:
                raise InvalidSettings(
                    f"'{name}' cannot stand in a certificate; see GLMIMAGE_TLS_NAMES."
                ) from None
    return general


def _serves(leaf: x509.Certificate, ca: x509.Certificate, names: list[str], now: datetime) -> bool:
    try:
        leaf.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    try:
        named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(named) >= set(_general_names(names)) and not _ends_soon(leaf, now + RENEW_BEFORE)


def _ends_soon(cert: x509.Certificate, when: datetime) -> bool:
    return cert.not_valid_after_utc < when


def _key_bytes(key: EcKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
