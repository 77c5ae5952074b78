"""A small Mistral3 and its tokenizer, as FLUX.2 dev and ERNIE-Image have them."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import Mistral3Config, PreTrainedTokenizerFast

from batchgen.model.families.flux2 import SYSTEM_MESSAGE

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]")
SPECIAL += ("[/SYSTEM_PROMPT]", "[IMG]")
# As Mistral's own: it begins with the token of the beginning, and takes contents in parts.
TEMPLATE = (
    "{{- bos_token }}{% set today = strftime_now('%Y-%m-%d') %}{% for message in messages %}"
    "{%- if message.role == 'system' %}{{- '[SYSTEM_PROMPT]' + message.content[0].text }}"
    "{{- '[/SYSTEM_PROMPT]' }}{%- elif message.role == 'user' %}{{- '[INST]' }}"
    "{%- for part in message.content %}{%- if part.type == 'text' %}{{- part.text }}"
    "{%- else %}{{- raise_exception('Only text is read here.') }}{%- endif %}{%- endfor %}"
    "{{- '[/INST]' }}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{ raise_exception('The answer begins by itself.') }}{% endif %}"
)


def mistral_tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """A token for each byte, pairs of letters, and each word of FLUX.2's system message.

    Like Mistral's, it puts the token of the beginning before every text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for word, _ in split.pre_tokenize_str(SYSTEM_MESSAGE)]
    pairs = [("r", "e"), ("re", "d"), ("b", "l"), ("l", "e")]
    vocabulary = dict.fromkeys([*SPECIAL, *alphabet, *("".join(pair) for pair in pairs), *words])
    numbers = {word: number for number, word in enumerate(vocabulary)}
    bare = Tokenizer(models.BPE(numbers, pairs, ignore_merges=True))
    bare.pre_tokenizer, bare.decoder = split, decoders.ByteLevel()
    begin = ("<s>", numbers["<s>"])
    bare.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[4:]),
        **changes,
    )


def mistral3_config(vocabulary: int, layers: int, **changes: Any) -> Mistral3Config:
    """Text and vision of width 32.

    :param changes: to the configuration of the language model.
    """
    text = {
        "model_type": "mistral",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
        "image_size": 28,
        "patch_size": 14,
    }
    return Mistral3Config(
        text_config=text | changes,
        vision_config=vision,
        image_token_index=SPECIAL.index("[IMG]"),
        tie_word_embeddings=False,
    )
