"""A model folder in diffusers layout, checked and identified without torch.

    ingredients.py      model and LoRAs: names, digests and licences
    licences.py         what files say of their licence; what it allows
    checkpoint.py       folder or hub id → Checkpoint
    component_reader.py   configurations and weight headers, each read once
    score_model.py      folder or hub id → ScoreModel, which scores pictures
    locate.py           folder or hub id → folder
    lora/               a LoRA file: which linears it changes, and how strongly
    tokenizer_files.py  whether a tokenizer loads as it was made
    pieces.py           T5's older tokenizer file
    chat_template.py    what a language model's prompt stands in
    contents.py         weight files against the configuration: nothing missing, nothing left over
    index.py            model_index.json against the family
    token_counter.py    tokens of prompts and of words
    guidance.py         which guidance values of a picture a model reads
    families/           what planning must know of a model family: transformer, tokens, FLOP
    components/         configurations of components, checked, and their tensors, name → shape
    weights.py          headers of weight files; a digest that need not read all of a file
    folder.py           the files that loading reads
    tiny/               the embedded model, a FLUX.1 small enough for a laptop (made by training/)

A room imports only rooms below it.
"""

from batchgen.model.checkpoint import TINY, Checkpoint, resolve
from batchgen.model.families import (
    FLUX2_DEV,
    FLUX2_KLEIN,
    MISTRAL3_LAYERS,
    QWEN3_LAYERS,
    QWEN_IMAGE,
    ZIMAGE_MULTIPLE,
)
from batchgen.model.guidance import Guidance
from batchgen.model.index import is_distilled
from batchgen.model.ingredients import Ingredient, list_ingredients, public_name
from batchgen.model.licences import forbids_commerce, is_open
from batchgen.model.lora import linear_name, read_lora
from batchgen.model.score_model import ScoreModel, resolve_score_model
from batchgen.model.token_counter import CountWords
from batchgen.model.weights import digest, read_header

__all__ = [
    "FLUX2_DEV",
    "FLUX2_KLEIN",
    "MISTRAL3_LAYERS",
    "QWEN3_LAYERS",
    "QWEN_IMAGE",
    "TINY",
    "ZIMAGE_MULTIPLE",
    "Checkpoint",
    "CountWords",
    "Guidance",
    "Ingredient",
    "ScoreModel",
    "digest",
    "forbids_commerce",
    "is_distilled",
    "is_open",
    "linear_name",
    "list_ingredients",
    "public_name",
    "read_header",
    "read_lora",
    "resolve",
    "resolve_score_model",
]
