"""Where a model is: the folder that `model.path` names, or the hub's snapshot of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from batchgen.errors import ModelError, shell_command
from batchgen.model.folder import expand_home, named_components, wanted
from batchgen.model.index import read_index
from batchgen.model.weights import kind_of_file
from batchgen.settings import Model

# The embedded model, a folder in diffusers layout.
TINY = Path(__file__).parent / "tiny"
INDEX = "model_index.json"
# How long the hub may take to answer.
HUB_TIMEOUT_S = 5.0
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_URL = re.compile(
    r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)([^/]+/[^/?#]+)(?:[/?#].*)?"
)
_ACCEPTED = (
    'model.path takes "tiny" (embedded), a folder in diffusers layout (it holds model_index.json), '
    'or a hub id such as "org/name"'
)
_SUFFIXES = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


def locate(model: Model) -> Path:
    """The folder of a job's model, fetched if it is on the hub. A folder here goes before the hub.

    :raises ModelError: there is none; the message says what was found in its place.
    """
    if not model.path.strip():
        raise ModelError(f"model.path is empty. {_ACCEPTED}.")
    path = expand_home(model.path)
    if not is_on_hub(model):
        if model.revision:
            given = f"model.revision = {model.revision!r} applies to hub ids only"
            raise ModelError(f"{given}; model.path is {model.path!r}")
        return TINY if model.path == "tiny" else _folder(model.path, path)
    return _download(model, path)


def is_on_hub(model: Model) -> bool:
    """Whether a job's model is to be fetched from the hub, if it is a model at all."""
    given = model.path
    if given == "tiny" or os.path.lexists(expand_home(given)):
        return False
    return bool(HUB_ID.fullmatch(given)) and not given.lower().endswith(_SUFFIXES)


def _folder(given: str, path: Path) -> Path:
    """The folder at a path.

    :raises ModelError: it holds no model; the message names the models near it.
    """
    asked = f"model.path = {given!r}"
    if url := _HUB_URL.fullmatch(given):
        raise ModelError(f"{asked}: give the hub's id of it: --set model.path={url[1]}")
    if "://" in given:
        raise ModelError(f"{asked}: an address; fetch the model to a folder here. {_ACCEPTED}.")
    if not os.path.lexists(path):
        raise ModelError(f"{asked}: no such folder{_beside(path)}. {_ACCEPTED}.")
    if not path.is_dir():
        raise ModelError(f"{asked}: {kind_of_file(path)}. {_ACCEPTED}.")
    path = path.resolve()
    if not os.path.lexists(path / INDEX):
        raise ModelError(f"{path}: holds no model_index.json{_instead(path)}. {_ACCEPTED}.")
    return path


def _beside(path: Path) -> str:
    """What the parent folder holds, if there is one."""
    parent = path.parent
    if not parent.name or not os.path.isdir(parent):  # noqa: PTH112 - the name may be too long
        return ""
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    return f"; {parent}/ holds {', '.join(names[:5]) or 'no folder'}{', ...' * (len(names) > 5)}"


def _instead(folder: Path) -> str:
    """What a folder without an index is, and where the models near it are."""
    if models := list(_near(folder)):
        listed = " or ".join(shell_command("--set", f"model.path={model}") for model in models[:3])
        cached = any(model.parent.name == "snapshots" for model in models)
        where = "in its snapshots, as it is a folder of the hub's cache" if cached else "near it"
        return f"; the model is {where}: {listed}"
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    return f"; {files[0].name} in it is {kind_of_file(files[0])}" if files else ""


def _near(folder: Path) -> Iterator[Path]:
    """Model folders around one: it is a component, a cache of the hub, or has models in it."""
    for pattern in ("../", "*/", "snapshots/*/", "*/snapshots/*/"):
        for index in sorted(folder.glob(f"{pattern}model_index.json")):
            yield Path(os.path.normpath(index.parent))


def _download(model: Model, path: Path) -> Path:
    """The hub's snapshot of the model; where the hub cannot be reached, the one in its cache.

    The index is fetched first: a model without a family is refused before gigabytes are moved.
    """

    def patterns(snapshot: Path) -> list[str]:
        left_out = read_index(snapshot).left_out
        return wanted(name for name in named_components(snapshot) if name not in left_out)

    try:
        return fetch(model.path, model.revision or None, INDEX, patterns)
    except NotFetched as error:
        fetch_it = shell_command("hf", "download", model.path, "--local-dir", "FOLDER")
        raise ModelError(
            f"model.path = {model.path!r}: no such folder{_beside(path)}, and the hub did not give "
            f"it: {error}\n{_ACCEPTED}. Where there is no network, fetch it elsewhere: "
            f"{fetch_it}, then --set model.path=FOLDER"
        ) from None


class NotFetched(Exception):
    """The hub did not give a model, nor did its cache; why."""


def fetch(
    name: str, revision: str | None, first: str, patterns: Callable[[Path], list[str]]
) -> Path:
    """The hub's snapshot of a model; where the hub cannot be reached, the one in its cache.

    The hub is asked once and shortly, because its client tries again for 24 seconds.

    :param first: the file that is fetched before all others.
    :param patterns: from the folder with this file to the patterns of the files to fetch.
    :raises NotFetched: there is none.
    """
    import huggingface_hub as hub  # here, because it takes a third of a second that few runs need

    silence = ""
    try:
        try:
            url = hub.hf_hub_url(name, first, revision=revision)
            revision = hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S).commit_hash
        except Exception as error:
            if is_answer(error):
                raise
            silence = f"the hub did not answer ({error}), and its cache here has no whole copy"
        offline = bool(silence)
        snapshot = Path(
            hub.hf_hub_download(name, first, revision=revision, local_files_only=offline)
        ).parent
        return Path(
            hub.snapshot_download(
                name,
                revision=snapshot.name,
                allow_patterns=patterns(snapshot),
                local_files_only=offline,
            )
        )
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        raise NotFetched(silence or str(error)) from None


def is_answer(error: Exception) -> bool:
    """Whether the hub refused: no such model, no such revision, no access."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status != 429
