"""Signing keys: Ed25519, one PEM file (PKCS #8) each, optionally encrypted with a passphrase."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from shoal.common.durable import sync_dir
from shoal.endpoint.errors import SigningKeyError

MAX_KEY_FILE = 64 << 10  # bytes; a real one has 119

Keyring = dict[str, CryptoSigner]  # by key ID, the SHA-256 of the public key


def generate(path: Path, passphrase: str | None = None) -> CryptoSigner:
    """A new key, written to ``path`` (mode 0600, never over an existing file)."""
    private = Ed25519PrivateKey.generate()
    _write(private, path, passphrase)
    return CryptoSigner(private)


def generate_in(folder: Path, role: str, passphrase: str | None = None) -> CryptoSigner:
    """A new key for ``role``, in ``folder`` under a name that no other key has."""
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    _write(private, folder / f"{role}-{signer.public_key.keyid[:8]}.pem", passphrase)
    return signer


def _write(private: Ed25519PrivateKey, path: Path, passphrase: str | None) -> None:
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Whole or not at all: half a key would be in the way of the next try.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_dir(path.parent)


def load_all(paths: Iterable[Path], pems: Iterable[str] = (), passphrase: str | None = None) -> Keyring:
    """The keys in ``paths`` (files, or folders with ``*.pem`` files) and in the PEM texts ``pems``."""
    found = [load(path, passphrase) for path in paths for path in _files(path)]
    found += [_parse(pem.encode(), "a key that was handed over", passphrase) for pem in pems]
    return {signer.public_key.keyid: signer for signer in found}


def load(path: Path, passphrase: str | None = None) -> CryptoSigner:
    """The key in the file ``path``. Raises SigningKeyError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            data = file.read(MAX_KEY_FILE + 1) or b""
    except OSError as error:
        raise SigningKeyError(f"the key {path} cannot be read: {error.strerror}") from None
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise SigningKeyError(
            f"the key {path} has mode {stat.S_IMODE(info.st_mode):04o}: others than its owner could read it",
            hint=f"chmod 600 {path}; if others had access to this machine, rotate the key",
        )
    if len(data) > MAX_KEY_FILE:
        raise SigningKeyError(f"{path} has more than {MAX_KEY_FILE} bytes: this is no key")
    return _parse(data, f"the key {path}", passphrase)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(path.glob("*.pem"))


def _parse(data: bytes, what: str, passphrase: str | None) -> CryptoSigner:
    encrypted = b"ENCRYPTED" in data
    if encrypted and not passphrase:
        raise SigningKeyError(f"{what} is encrypted, and no passphrase was given", hint="give --passphrase-file FILE")
    try:
        private = load_pem_private_key(data, passphrase.encode() if encrypted and passphrase else None)
    except ValueError as error:
        hint = "is it the right passphrase?" if encrypted else "it must be PEM, as `shoal endpoint init` writes it"
        raise SigningKeyError(f"{what} cannot be used: {error}", hint=hint) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SigningKeyError(f"{what} is not an Ed25519 key")
    return CryptoSigner(private)
