"""A tokenizer's folder: whether transformers loads it, and as it was made.

transformers is not imported: it takes seconds, and answers an incomplete folder with advice to
install other packages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from batchgen.errors import ModelError
from batchgen.model.components.clip import Clip
from batchgen.model.components.config import Config
from batchgen.model.components.mistral3 import Mistral3
from batchgen.model.components.qwen3 import Qwen3
from batchgen.model.components.qwen25_vl import Qwen25VL
from batchgen.model.components.t5 import T5
from batchgen.model.components.tokenizer import ANY_TOKENIZER, T5_TOKENIZER, TokenizerKind
from batchgen.model.folder import check_file, read_json
from batchgen.model.pieces import PIECES, read_pieces

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_AGAIN = "fetch the folder again, or save the tokenizer with save_pretrained"


def read_tokenizer(folder: Path) -> Tokenizer:
    """What `tokenizer.json` holds, or T5's older file, without padding and truncation.

    :raises ModelError: there is no such file, or it is damaged.
    """
    path = folder / "tokenizer.json"
    if path.exists():
        tokenizer = _read(path)
    elif _has_pieces(folder):
        tokenizer = read_pieces(folder, read_json(folder / "tokenizer_config.json"))
    else:
        raise ModelError(f"{path}: missing; {_AGAIN}.")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _has_pieces(folder: Path) -> bool:
    """Whether T5's class makes a tokenizer of its older file."""
    settings = folder / "tokenizer_config.json"
    if not (folder / PIECES).exists() or not settings.exists():
        return False
    return read_json(settings).get("tokenizer_class") in T5_TOKENIZER.class_names


def _read(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    :raises ModelError: it is damaged.
    """
    check_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.encode("a")  # a name that stands for nothing is met only now
    except BaseException as error:
        # The library has no narrower exception, and a panic of its Rust code is not even one.
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        raise ModelError(f"{path}: not a tokenizer: {error}; {_AGAIN}.") from None
    return tokenizer


def special_tokens(folder: Path) -> dict[str, str]:
    """Name of each special token that a tokenizer's folder names → its text."""
    settings = read_json(folder / "tokenizer_config.json")
    named = _special_tokens(folder, settings, {})
    return {name: token for name, token in named.items() if isinstance(token, str)}


def check_tokenizer(folder: Path, kind: TokenizerKind, encoder: Config) -> None:
    """Check that a tokenizer loads, and that its text encoder has a vector for every token.

    :param encoder: configuration of the text encoder that the tokenizer serves.
    :raises ModelError: a file is missing or damaged, or does not fit.
    """
    where = folder / "tokenizer_config.json"
    if not where.exists():
        raise ModelError(f"{where}: missing; {_AGAIN}.")
    settings = read_json(where)
    given = settings.get("tokenizer_class")
    chosen = ANY_TOKENIZER[0] if given is None else given
    if chosen not in (*kind.class_names, *ANY_TOKENIZER):
        known = ", ".join((*kind.class_names, *ANY_TOKENIZER))
        raise ModelError(f"{where}: tokenizer_class is {chosen!r}, expected one of {known}.")
    own = chosen in kind.class_names
    vocabulary = _vocabulary(folder, kind, own=own)
    special = _special_tokens(folder, settings, kind.special_tokens if own else {})
    _check_special(where, special, vocabulary)
    assert isinstance(encoder, Clip | T5 | Qwen3 | Qwen25VL | Mistral3)
    if (largest := max(vocabulary.values(), default=-1)) >= encoder.vocab_size:
        raise ModelError(
            f"{folder}: tokens are numbered up to {largest}, but their text encoder has "
            f"vocab_size = {encoder.vocab_size}. They are of different models: fetch both again."
        )
    if isinstance(encoder, Clip):
        _check_length(where, settings.get("model_max_length"), encoder.max_position_embeddings)


def _vocabulary(folder: Path, kind: TokenizerKind, *, own: bool) -> dict[str, int]:
    """Token → number.

    :param own: whether a class of this kind loads the folder; it presumes the kind's model.
    """
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if own and kind.model == "BPE" and not (folder / "tokenizer.json").exists():
        numbers = read_json(vocabulary)
        check_file(merges)
        try:
            BPE.from_file(str(vocabulary), str(merges))
        except Exception as error:  # noqa: BLE001 - the library has no narrower one
            raise ModelError(f"{folder}: vocab.json and merges.txt: {error}; {_AGAIN}.") from None
        return numbers
    tokenizer = read_tokenizer(folder)
    if own and (held := type(tokenizer.model).__name__) != kind.model:
        raise ModelError(
            f"{folder}: tokenizer_class {kind.class_names[0]} takes a {kind.model} vocabulary, "
            f"but tokenizer.json holds a {held}; set tokenizer_class to {ANY_TOKENIZER[0]}."
        )
    return dict(tokenizer.get_vocab())


def _special_tokens(
    folder: Path, settings: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """Name of each special token → its text, or what stands in its place.

    :param settings: of tokenizer_config.json, which go before those of the older file.
    :param default: what the tokenizer's class presumes.
    """
    path = folder / "special_tokens_map.json"
    older = read_json(path) if path.exists() else {}
    # Both files can hold a token in a table that says how it is matched; the newer one marks it.
    return {**default, **_texts(older), **_texts(settings, marked=True)}


def _texts(content: Mapping[str, Any], *, marked: bool = False) -> dict[str, Any]:
    return {
        name: token["content"]
        if isinstance(token, dict) and "content" in token and ("__type" in token or not marked)
        else token
        for name, token in content.items()
        if name in _SPECIAL
    }


def _check_special(where: Path, special: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    if special.get("pad_token") is None:
        raise ModelError(f"{where}: pad_token is missing; {_AGAIN}.")
    for name, token in special.items():
        if token is not None and not (isinstance(token, str) and token in vocabulary):
            raise ModelError(
                f"{where}: {name} = {json.dumps(token)} is not in the vocabulary; {_AGAIN}."
            )


def _check_length(where: Path, length: Any, positions: int) -> None:
    if not isinstance(length, int) or not 2 <= length <= positions:
        raise ModelError(
            f"{where}: model_max_length = {json.dumps(length)}, expected a whole number from 2 to "
            f"the text encoder's max_position_embeddings = {positions}."
        )
