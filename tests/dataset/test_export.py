"""A signed copy of a run: every picture carries a manifest that C2PA's own reader finds valid."""

import dataclasses
import datetime as dt
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batchgen.dataset.export import export_run
from batchgen.dataset.signing import Signer, open_signer
from batchgen.errors import BatchgenError, DamagedRun, InputError, OutputError
from batchgen.model import Ingredient
from batchgen.run import Run
from batchgen.settings import EngineSettings
from tests.support.rehearsal import ask
from tests.support.specimens import planned, worked

c2pa = pytest.importorskip("c2pa", reason="the extra `sign` is not installed")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
MODEL = Ingredient(kind="model", name="org/dev@abc", digest="sha256:12", license="mit")
STYLE = Ingredient(kind="LoRA", name="style", digest="sampled:34")
TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def pem(key: Any, password: bytes = b"") -> bytes:
    lock = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    pkcs8 = serialization.PrivateFormat.PKCS8
    return bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, lock))


def name(text: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, "Tests"), (NameOID.COMMON_NAME, text))
    return x509.Name([x509.NameAttribute(kind, part) for kind, part in parts])


def certificate(key: Any, issuer: Any, *, above: bool = False, purpose: bool = True) -> bytes:
    """A certificate for a key, signed by another; `above`: that of the authority."""
    subject, extensions = ("authority" if above else "signer"), []
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    extensions += [(x509.BasicConstraints(ca=above, path_length=None), True)]
    extensions += [
        (x509.KeyUsage(digital_signature=not above, key_cert_sign=above, **usage), True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False),
    ]
    if purpose and not above:
        extensions += [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)]
    made = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("authority"))
    made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
    made = made.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    for extension, critical in extensions:
        made = made.add_extension(extension, critical)
    return bytes(made.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


AUTHORITY = ec.generate_private_key(ec.SECP256R1())
SIGNER = ec.generate_private_key(ec.SECP256R1())
CHAIN = certificate(SIGNER, AUTHORITY) + certificate(AUTHORITY, AUTHORITY, above=True)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(CHAIN)
    key.write_bytes(pem(SIGNER))
    return chain, key


def made(tmp_path: Path, kind: str = "jpg") -> Run:
    """A complete run, as if a model and a LoRA had made it: three pictures, and a failed shard."""
    prompts = ["a cat", "RAISE", "a dog", "a cow", *["RAISE"] * 4]
    run = worked(planned(tmp_path, prompts, f"output.format={kind}"))
    plan = run.plan.model_copy(update={"made_with": (MODEL, STYLE)})
    job = run.job.model_copy(update={"engine": EngineSettings()})
    return dataclasses.replace(run, plan=plan, job=job)


def members(run: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((run / "data").rglob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {one.name: tar.extractfile(one).read() for one in tar}
    return found


def read(image: bytes, kind: str) -> dict[str, Any]:
    """What C2PA's reader says of a picture: the state, and the active manifest."""
    told = json.loads(c2pa.Reader(TYPES[kind], io.BytesIO(image)).json())
    return {"state": told["validation_state"], **told["manifests"][told["active_manifest"]]}


@pytest.mark.parametrize("kind", TYPES)
def test_every_picture_is_signed_and_else_the_dataset_is_the_same(
    kind: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    run, out = made(tmp_path, kind), tmp_path / "signed"
    assert export_run(run, out, open_signer(run, *files)) == {"train": 3}
    before, after = members(run.directory.root), members(out)
    assert list(after) == list(before)
    rows = pq.read_table(out / "metadata").to_pylist()
    recorded = {f"{row['key']}.{kind}": (row["sha256"], row["image_bytes"]) for row in rows}
    assert recorded["000000001." + kind] == (None, 0)
    for member, content in after.items():
        if not member.endswith(kind):
            assert content == before[member]
            continue
        told = read(content, kind)
        assert (told["state"], told["title"]) == ("Valid", member)
        (created,) = told["assertions"][0]["data"]["actions"]
        assert created["action"] == "c2pa.created"
        assert created["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert len(created["parameters"]["ingredients"]) == 2
        inputs = [(one["title"], one["instance_id"]) for one in told["ingredients"]]
        assert inputs == [("org/dev@abc", "sha256:12"), ("style", "sampled:34")]
        assert told["signature_info"]["common_name"] == "signer"
        both = [np.asarray(Image.open(io.BytesIO(one))) for one in (content, before[member])]
        assert np.array_equal(*both)
        assert recorded[member] == (hashlib.sha256(content).hexdigest(), len(content))


def test_a_changed_picture_is_found_by_the_reader(files: tuple[Path, Path], tmp_path: Path) -> None:
    run = made(tmp_path)
    image = members(run.directory.root)["000000000.jpg"]
    signed = bytearray(open_signer(run, *files).sign(image, "jpg", "it"))
    signed[-5] ^= 1
    assert read(bytes(signed), "jpg")["state"] == "Invalid"


def test_the_copy_has_card_index_and_its_own_hashes(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run, out = made(tmp_path), tmp_path / "signed"
    answer = ask("export", run.directory.root, out, "--sign", *files)
    assert answer.code == 0, answer
    assert "train  3 pictures" in answer.out
    (shard,) = json.loads((out / "index.json").read_text())["shardlist"]
    tar = (out / shard["url"]).read_bytes()
    assert (shard["nsamples"], shard["filesize"]) == (3, len(tar))
    assert shard["md5sum"] == hashlib.md5(tar).hexdigest()
    text = (out / "README.md").read_text()
    assert "# signed\n" in text
    assert f"`{hashlib.sha256(CHAIN).hexdigest()}`" in text
    assert (out / "contact.jpg").exists()
    schema = pq.read_schema(run.directory.metadata(0))
    copied = pq.read_schema(out / "metadata" / "000000.parquet")
    assert copied.equals(schema, check_metadata=True)


def test_an_export_that_was_killed_goes_on_after_the_last_whole_shard(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = worked(planned(tmp_path, [f"a cat {n}" for n in range(8)])), tmp_path / "signed"
    signer, sign, signed = open_signer(run, *files), Signer.sign, list[str]()

    def dies(self: Signer, image: bytes, kind: str, title: str) -> bytes:
        signed.append(title)
        if len(signed) == 6:
            raise KeyboardInterrupt
        return sign(self, image, kind, title)

    monkeypatch.setattr(Signer, "sign", dies)
    with pytest.raises(KeyboardInterrupt):
        export_run(run, out, signer)
    assert not out.exists()
    tars = tmp_path / "signed.part" / "data" / "0"
    assert sorted(path.name for path in tars.iterdir()) == ["000000.tar", "000001.tar.begun"]
    first = (tars / "000000.tar").read_bytes()
    assert export_run(run, out, signer) == {"train": 8}
    assert signed[6:] == [f"{key:09d}.jpg" for key in range(4, 8)]
    assert (out / "data/0/000000.tar").read_bytes() == first
    assert sorted(path.name for path in out.rglob("*.tar*")) == ["000000.tar", "000001.tar"]
    assert not list(out.rglob("export.json"))
    assert not (tmp_path / "signed.part").exists()


@pytest.mark.parametrize("dies", ["unlink", "replace"])
def test_an_export_that_was_killed_at_its_very_end_is_whole_or_goes_on(
    dies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = made(tmp_path), tmp_path / "copy"
    act = getattr(Path, dies)

    def killed(path: Path, *words: Any, **more: Any) -> Any:
        if path.name in ("export.json", "copy.part"):
            raise KeyboardInterrupt
        return act(path, *words, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, dies, killed)
        with pytest.raises(KeyboardInterrupt):
            export_run(run, out)
    if not out.exists():
        assert export_run(run, out) == {"train": 3}
    assert len(members(out)) == 9


def test_an_export_of_something_else_is_begun_anew_and_a_strangers_folder_is_left_alone(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run, out, part = made(tmp_path), tmp_path / "signed", tmp_path / "signed.part"
    (part / "data/0").mkdir(parents=True)
    (part / "data/0/000000.tar").write_bytes(b"of another certificate")
    with pytest.raises(OutputError, match="holds something that is no export"):
        export_run(run, out, open_signer(run, *files))
    (part / "export.json").write_text("{}")
    assert export_run(run, out, open_signer(run, *files)) == {"train": 3}
    assert len(members(out)) == 9


def test_only_a_complete_run_into_a_folder_of_its_own_is_exported(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run = made(tmp_path)
    signer, root = open_signer(run, *files), run.directory.root
    with pytest.raises(OutputError, match="in the folder of the run"):
        export_run(run, root / "signed", signer)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(OutputError, match="holds something; name a new or an empty folder"):
        export_run(run, tmp_path / "full", signer)
    run.directory.index.unlink()
    with pytest.raises(InputError, match="not complete"):
        export_run(run, tmp_path / "new", signer)


def test_a_picture_that_is_not_the_one_of_its_record_is_not_signed(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run = made(tmp_path)
    tar = run.directory.data(0)
    data = bytearray(tar.read_bytes())
    data[512 + 40] ^= 1  # in the first picture
    tar.write_bytes(data)
    with pytest.raises(DamagedRun, match=r"000000000\.jpg is not what its record says"):
        export_run(run, tmp_path / "signed", open_signer(run, *files))


def lone(key: Any, **changed: bool) -> bytes:
    return certificate(key, AUTHORITY, **changed)


UNFIT: dict[str, tuple[Callable[[], bytes], Callable[[], bytes], str]] = {
    "another key": (lambda: CHAIN, lambda: pem(AUTHORITY), "cannot sign: "),
    "no purpose": (lambda: lone(SIGNER, purpose=False), lambda: pem(SIGNER), "cannot sign: "),
    "self-signed": (
        lambda: certificate(AUTHORITY, AUTHORITY, above=True),
        lambda: pem(AUTHORITY),
        "self-signed",
    ),
    "no certificate": (lambda: b"mine", lambda: pem(SIGNER), "chain.pem: not a PEM file"),
    "no key": (lambda: CHAIN, lambda: CHAIN, "key.pem: expected a private key in PEM"),
    "password": (lambda: CHAIN, lambda: pem(SIGNER, b"x"), "the key has a password"),
    "curve": (
        lambda: CHAIN,
        lambda: pem(ec.generate_private_key(ec.SECP256K1())),
        "expected a key of P-256",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_certificate_or_key_is_refused_before_anything_is_written(
    case: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    chain, key, told = UNFIT[case]
    files[0].write_bytes(chain())
    files[1].write_bytes(key())
    with pytest.raises(InputError) as error:
        open_signer(planned(tmp_path), *files)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "generate",
    [
        partial(ec.generate_private_key, ec.SECP384R1()),
        partial(rsa.generate_private_key, 65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["P-384", "RSA", "Ed25519"],
)
def test_keys_of_other_kinds_sign(
    generate: Callable[[], Any], files: tuple[Path, Path], tmp_path: Path
) -> None:
    key = generate()
    files[0].write_bytes(lone(key) + certificate(AUTHORITY, AUTHORITY, above=True))
    files[1].write_bytes(pem(key))
    assert isinstance(open_signer(planned(tmp_path), *files), Signer)


def test_a_key_as_openssl_makes_it_signs(files: tuple[Path, Path], tmp_path: Path) -> None:
    """`openssl ecparam -genkey` writes BEGIN EC PRIVATE KEY."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    text = SIGNER.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    assert b"BEGIN EC PRIVATE KEY" in text
    files[1].write_bytes(text)
    assert isinstance(open_signer(planned(tmp_path), *files), Signer)


def test_without_the_package_it_is_told_what_to_install(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(BatchgenError, match=r"pip install 'batchgen\[sign\]'"):
        open_signer(planned(tmp_path), *files)
