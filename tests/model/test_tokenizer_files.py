"""A tokenizer that would not load, or load as another one, is refused at plan."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from batchgen.errors import ModelError
from batchgen.model import resolve
from batchgen.model.tokenizer_files import read_tokenizer
from batchgen.settings import Model
from tests.support.stock import PROMPTS
from tests.support.t5_tokenizer import save_t5_tokenizer

WORDS = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "r": 3, "e": 4, "d</w>": 5}
CLIP = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False},
    "pad_token": "<|endoftext|>",
}


def settings(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        resolve(Model(path=str(folder)))
    told = str(error.value)
    assert "sentencepiece" not in told
    assert "trust_remote_code" not in told
    return told


@pytest.fixture
def published(model_folder: Path) -> Path:
    """A model whose CLIP tokenizer has files as those of FLUX.1."""
    folder = model_folder / "tokenizer"
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(WORDS | {"re": 6}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(CLIP))
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|startoftext|>"}}')
    return model_folder


def test_a_clip_tokenizer_as_it_is_published_is_accepted(published: Path) -> None:
    AutoTokenizer.from_pretrained(published / "tokenizer")
    resolve(Model(path=str(published)))


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_missing_file_of_clip_is_named(file: str, published: Path) -> None:
    (published / "tokenizer" / file).unlink()
    assert f"{published / 'tokenizer' / file}: missing; fetch" in refusal(published)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("folder", ["tokenizer", "tokenizer_2"])
def test_a_missing_file_is_named(folder: str, file: str, model_folder: Path) -> None:
    (model_folder / folder / file).unlink()
    assert f"{model_folder / folder / file}: missing; fetch" in refusal(model_folder)


def test_pieces_of_words_make_the_tokenizer_that_transformers_makes_of_them(tmp_path: Path) -> None:
    save_t5_tokenizer(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    assert ours.get_vocab() == theirs.get_vocab()
    for text in (*PROMPTS, "", "  ünknown\n words ,,", "ﬁ ½ a<extra_id_1>b </s> c", "<pad>"):
        assert ours.encode(text).ids == theirs(text).input_ids


@pytest.mark.parametrize("length", [0, 5, -50])
def test_damaged_pieces_are_named(length: int, tmp_path: Path) -> None:
    save_t5_tokenizer(tmp_path)
    path = tmp_path / "spiece.model"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="not a T5 tokenizer") as error:
        read_tokenizer(tmp_path)
    assert str(error.value).startswith(f"{path}: ")


def test_pieces_are_refused_where_another_class_would_not_read_them(model_folder: Path) -> None:
    folder = model_folder / "tokenizer_2"
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    told = f"{folder / 'tokenizer.json'}: missing; fetch the folder again, or save the tokenizer"
    assert told in refusal(model_folder)


@pytest.mark.parametrize("content", ["", "{}", "null", "[]", "no JSON", '{"model": 3}', "[" * 9999])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(file: str, content: str, model_folder: Path) -> None:
    path = model_folder / "tokenizer_2" / file
    path.write_text(content)
    assert refusal(model_folder).startswith(f"{path}: ")


def test_a_tokenizer_that_loads_and_cannot_take_a_prompt_is_named(model_folder: Path) -> None:
    """The tokenizers library panics: its exception is no `Exception`."""
    path = model_folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"]["single"][0]["SpecialToken"]["id"] = "<|nowhere|>"
    path.write_text(json.dumps(content))
    assert refusal(model_folder).startswith(f"{path}: not a tokenizer: ")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("merges.txt", "a b c d\nq\n"),
        ("merges.txt", "q q\n"),
        ("vocab.json", "{}"),
        ("vocab.json", '{"r": "x"}'),
        ("vocab.json", "[]"),
    ],
)
def test_damaged_words_of_clip_are_named(file: str, content: str, published: Path) -> None:
    (published / "tokenizer" / file).write_text(content)
    assert refusal(published).startswith(f"{published / 'tokenizer'}")


@pytest.mark.parametrize("name", ["LlamaTokenizer", "T5Tokenizer", ["CLIPTokenizer"], 3, 0.0, ""])
def test_a_class_that_would_read_other_words_is_refused(name: Any, model_folder: Path) -> None:
    path = settings(model_folder / "tokenizer", tokenizer_class=name)
    told = refusal(model_folder)
    assert f"{path}: tokenizer_class is {name!r}, expected one of CLIPTokenizer, " in told


@pytest.mark.parametrize(
    ("folder", "name", "model"),
    [("tokenizer", "CLIPTokenizer", "BPE"), ("tokenizer_2", "T5TokenizerFast", "Unigram")],
)
def test_words_that_a_class_would_ignore_are_refused(
    folder: str, name: str, model: str, model_folder: Path
) -> None:
    settings(model_folder / folder, tokenizer_class=name)
    told = refusal(model_folder)
    assert f"takes a {model} vocabulary, but tokenizer.json holds a WordLevel" in told


@pytest.mark.parametrize("length", [..., None, "77", 78, 0, 10**30])
def test_a_length_without_positions_in_clip_is_refused(length: Any, model_folder: Path) -> None:
    path = settings(model_folder / "tokenizer", model_max_length=length)
    told = refusal(model_folder)
    assert f"{path}: model_max_length = " in told
    assert "from 2 to the text encoder's max_position_embeddings = 77" in told


@pytest.mark.parametrize("token", [..., None])
def test_a_tokenizer_that_cannot_pad_is_refused(token: Any, model_folder: Path) -> None:
    path = settings(model_folder / "tokenizer_2", pad_token=token)
    assert f"{path}: pad_token is missing" in refusal(model_folder)


@pytest.mark.parametrize("token", ["[NEW]", {"content": "[NEW]"}, 5, ["x"]])
def test_a_special_token_without_a_vector_is_refused(token: Any, model_folder: Path) -> None:
    path = settings(model_folder / "tokenizer", pad_token=token)
    told = refusal(model_folder)
    assert f"{path}: pad_token = " in told
    assert "is not in the vocabulary" in told


def test_more_tokens_than_the_encoder_has_vectors_are_refused(model_folder: Path) -> None:
    config = model_folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 48', '"vocab_size": 40'))

    weights = model_folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    name = "embeddings.token_embedding.weight"
    save_file(tensors | {name: tensors[name][:40].clone()}, weights)
    told = f"{model_folder / 'tokenizer'}: tokens are numbered up to 47, but their text encoder has"
    assert f"{told} vocab_size = 40" in refusal(model_folder)
