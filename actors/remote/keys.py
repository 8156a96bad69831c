"""Ed25519 key pairs and TLS certificates, made and read by `cryptography`."""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.errors import KeyFileError

_PUBLIC_KEY_BYTES = 32
_VALID_DAYS = 3650


def make_key(path: Path) -> Ed25519PrivateKey:
    """A new private key, written to a file that only its owner reads.

    Raises:
        FileExistsError: the file is there; a key is never written over.
    """
    key = Ed25519PrivateKey.generate()
    write_private(path, _pem(key))
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Raises KeyFileError when the file cannot be read, or holds another kind of key."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: {error}; name the key file that `join` wrote") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a {type(key).__name__}; name the Ed25519 key file that `join` wrote")
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """The public key as 44 characters of base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def is_public_key(text: str) -> bool:
    """Whether the text is a public key as `public_text` writes it."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == _PUBLIC_KEY_BYTES and base64.b64encode(raw).decode() == text


def is_signed(public_key: str, signature: bytes, content: bytes) -> bool:
    """Whether the signature over the content is that of the public key, in the form of `public_text`."""
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)).verify(signature, content)
    except InvalidSignature:
        return False
    return True


def make_certificate(host: str, certificate: Path, key: Path) -> None:
    """Write a self-signed TLS certificate for a host name or address, and its private key; both PEM.

    Raises:
        FileExistsError: one of the files is there.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "safe-fedllm gateway")]), datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    write_private(key, _pem(private))
    write_private(certificate, made.public_bytes(serialization.Encoding.PEM))


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner reads; raises FileExistsError where it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
