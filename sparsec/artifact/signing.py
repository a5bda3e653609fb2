"""Ed25519 signatures of artifacts (RFC 8032), detached: `model.sparsec.sig` holds the 64 bytes beside `model.sparsec`.

Keys are PEM files as OpenSSL writes them: `openssl genpkey -algorithm ed25519 -out key.pem` makes a private one and
`openssl pkey -in key.pem -pubout -out public.pem` its public one.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sparsec.errors import SignatureError, ToolchainError
from sparsec.files import read_regular, write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

File = str | os.PathLike[str]

_BYTES = 64  # of a signature
_KEY_BYTES = 1 << 16  # more than any key's file has


def signature_path(path: File) -> Path:
    """Where the signature of a file lies."""
    return Path(f"{os.fspath(path)}.sig")


def sign(data: bytes | memoryview, key: File) -> bytes:
    """The signature of the data by a private key's file.

    Raises:
        SignatureError: the file holds no private Ed25519 key without a password.
        ToolchainError: the `cryptography` package is missing.

    """
    return _private(key).sign(data)


def sign_file(path: File, key: File) -> None:
    """Write the signature of a file beside it.

    Raises:
        SignatureError, ToolchainError: as `sign`.
        OSError: the file cannot be read, or the signature not be written.

    """
    with (Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
          memoryview(mapping) as data):
        write(signature_path(path), sign(data, key))


def check(data: bytes | memoryview, path: File, key: File) -> None:
    """Check the data, read from `path`, against the signature beside it and a public key's file.

    Raises:
        SignatureError: there is no signature, it is another's or of other data, or the key cannot be read.
        ToolchainError: the `cryptography` package is missing.

    """
    public = _public(key)
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(read_regular(signature_path(path), _BYTES + 1), data)
    except OSError as error:
        raise SignatureError(f"{signature_path(path)}: {error.strerror}; a signature is required, "
                             "`sparsec compile --sign KEY` writes one") from error
    except InvalidSignature as error:
        raise SignatureError(f"{path} is not what the owner of {key} has signed; get it again from them") from error


def _private(key: File) -> Ed25519PrivateKey:
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(read_regular(key, _KEY_BYTES), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SignatureError(f"{key}: not a private key in PEM without a password ({error})") from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise SignatureError(f"{key}: not an Ed25519 key; `openssl genpkey -algorithm ed25519` makes one")
    return loaded


def _public(key: File) -> Ed25519PublicKey:
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        loaded = load_pem_public_key(read_regular(key, _KEY_BYTES))
    except (OSError, ValueError, TypeError) as error:
        raise SignatureError(f"{key}: not a public key in PEM ({error})") from error
    if not isinstance(loaded, Ed25519PublicKey):
        raise SignatureError(f"{key}: not an Ed25519 key; `openssl pkey -pubout` writes that of a private one")
    return loaded


def _require_library() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ToolchainError("signatures need the package cryptography; pip install 'sparsec[signatures]'")
