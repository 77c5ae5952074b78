"""`spiece.model`, the older file of T5's tokenizer: pieces of words and their scores.

Folders saved by older versions of transformers have it and no `tokenizer.json`, as Chroma1-HD's.
transformers makes a tokenizer of it; so does this, without transformers.
`tests/model/test_tokenizer_files.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from batchgen.errors import ModelError
from batchgen.model.folder import check_file

PIECES = "spiece.model"
_UNIGRAM = 1
_SPACE = "▁"


def read_pieces(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a T5 that `spiece.model` holds.

    :param settings: of tokenizer_config.json.
    :raises ModelError: the file is missing or damaged, or holds another kind of tokenizer.
    """
    path = folder / PIECES
    check_file(path)
    # Imported here, because most folders do without it.
    from google.protobuf.message import DecodeError

    messages: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    model = messages.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        scores = [(piece.piece, piece.score) for piece in model.pieces]
        unknown = model.trainer_spec.unk_id
        if model.trainer_spec.model_type != _UNIGRAM or not 0 <= unknown < len(scores):
            raise ValueError("it holds no pieces of words with scores")
        tokenizer = Tokenizer(models.Unigram(scores, unknown))
        if charsmap := model.normalizer_spec.precompiled_charsmap:
            tokenizer.normalizer = normalizers.Precompiled(charsmap)
    except Exception as error:  # noqa: BLE001 - the library has no narrower one
        what = "it is cut off or overwritten" if isinstance(error, DecodeError) else error
        raise ModelError(f"{path}: not a T5 tokenizer: {what}; fetch the folder again.") from None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(_SPACE, "always")]
    )
    end = str(settings.get("eos_token", "</s>"))
    tokenizer.add_special_tokens(_added(settings))
    if (number := tokenizer.token_to_id(end)) is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            f"$A {end}", special_tokens=[(end, number)]
        )
    return tokenizer


def _added(settings: Mapping[str, Any]) -> list[str]:
    """Tokens beside the pieces, by their numbers."""
    added = settings.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return []
    numbered = {int(number): token for number, token in added.items() if number.isdigit()}
    return [
        str(token["content"])
        for _, token in sorted(numbered.items())
        if isinstance(token, dict) and "content" in token
    ]
