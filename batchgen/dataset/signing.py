"""Signed C2PA manifests ("Content Credentials") in pictures: who vouches for what made them.

A manifest says that a trained model created the picture, names the model and its LoRAs as its
inputs, and is signed with a certificate of the user. It belongs to the bytes of one file: whoever
encodes the picture again loses it. No time stamp is fetched, for that would ask a server about
every picture; readers therefore doubt a signature once its certificate has expired.

c2pa-python does the work, and is optional: pip install 'batchgen[sign]'.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from batchgen.dataset.provenance import source_type
from batchgen.errors import InputError
from batchgen.model import Ingredient
from batchgen.regular_file import read_regular
from batchgen.run import Run

if TYPE_CHECKING:
    import c2pa

_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# Thumbnails would make small pictures many times larger.
_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs the pictures of a run."""

    # The certificate and those above it, PEM.
    chain: bytes
    _signer: c2pa.Signer
    _context: c2pa.Context
    _manifest: dict[str, Any]

    def sign(self, image: bytes, kind: str, title: str) -> bytes:
        """The same picture with a signed manifest in it.

        :param kind: jpg, png or webp.
        """
        import c2pa

        signed = io.BytesIO()
        manifest = json.dumps({"title": title, **self._manifest})
        with c2pa.Builder(manifest, self._context) as builder:
            builder.sign(self._signer, _TYPES[kind], io.BytesIO(image), signed)
        return signed.getvalue()

    def told(self) -> str:
        """What the dataset card says of it."""
        certificate = hashlib.sha256(self.chain).hexdigest()
        return (
            "\n## Signatures\n\nEvery picture carries a signed C2PA manifest (Content "
            "Credentials), which says how it was made and names the model. `sha256` "
            "and `image_bytes` of the records are those of the signed files. The file of the "
            f"certificate has the SHA-256 `{certificate}`.\n"
        )


def open_signer(run: Run, certificate: Path, key: Path) -> Signer:
    """Make a signer for a run's pictures, and sign one to try it.

    :param certificate: PEM, the signer's certificate first and then those above it.
    :param key: PEM, without a password.
    :raises InputError: c2pa-python is missing, or the two cannot sign; the message says why.
    """
    try:
        import c2pa
    except ImportError:
        raise InputError(
            "signing needs c2pa-python, which is not installed: pip install 'batchgen[sign]'"
        ) from None
    chain, (algorithm, secret) = _read(certificate), _read_key(key)
    info = c2pa.C2paSignerInfo(
        alg=algorithm.encode(), sign_cert=chain, private_key=secret, ta_url=None
    )
    try:
        signer = Signer(
            chain, c2pa.Signer.from_info(info), c2pa.Context.from_dict(_SETTINGS), _manifest(run)
        )
        trial = io.BytesIO()
        Image.new("RGB", (16, 16)).save(trial, "PNG")
        signer.sign(trial.getvalue(), "png", "trial")
    except c2pa.C2paError as error:
        raise InputError(
            f"{certificate} and {key} cannot sign: {error}. Expected in the first: a certificate "
            "for that key, in PEM, with the key usage digitalSignature and an extended one such as "
            "emailProtection or documentSigning, valid now and not signed by itself; after it the "
            "certificates above it"
        ) from None
    return signer


def _read(path: Path) -> bytes:
    """The content of a PEM file.

    :raises InputError: there is none.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise InputError(f"--sign {path}: cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise InputError(f"--sign {path}: not a PEM file (no line -----BEGIN …-----)")
    return content


def _read_key(path: Path) -> tuple[str, bytes]:
    """How C2PA calls a signature by a key, and the key as PKCS #8, which is all that it reads.

    :raises InputError: it is no key, or of a kind that C2PA does not sign with.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        private = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError:
        plain = "openssl pkcs8 -topk8 -nocrypt -in KEY -out PLAIN"
        raise InputError(f"{path}: the key has a password; write it without: {plain}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected a private key in PEM: {error}") from None
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        algorithm = _CURVES[private.curve.name]
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "ps256"
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    else:
        raise InputError(f"{path}: expected a key of P-256, P-384, P-521, Ed25519 or RSA")
    written = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return algorithm, private.private_bytes(*written, serialization.NoEncryption())


def _manifest(run: Run) -> dict[str, Any]:
    """What all manifests of a run say; see the C2PA specification, "Actions" and "Ingredient"."""
    software = {"name": "batchgen", "version": run.plan.software["batchgen"]}
    inputs = [_input(number, one) for number, one in enumerate(run.plan.made_with)]
    created: dict[str, Any] = {
        "action": "c2pa.created",
        "digitalSourceType": source_type(run.job),
        "softwareAgent": software,
    }
    if inputs:
        created["parameters"] = {"ingredientIds": [one["label"] for one in inputs]}
    return {
        "claim_generator_info": [software],
        "ingredients": inputs,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _input(number: int, one: Ingredient) -> dict[str, Any]:
    licence = f"licence: {one.license}" if one.license else "its files tell no licence"
    return {
        "label": f"input-{number}",
        "title": one.name,
        "description": f"{one.kind}, {licence}",
        "instance_id": one.digest,
        "relationship": "inputTo",
        "data_types": [{"type": "c2pa.types.model"}],
    }
