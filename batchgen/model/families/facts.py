"""What planning must know of a model family, without torch: components, tokens and FLOP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchgen.model.components.config import Component
from batchgen.model.components.scheduler import SCHEDULER
from batchgen.model.components.tokenizer import ANY_TOKENIZER, TokenizerKind

Messages = list[dict[str, Any]]
"""A conversation, as chat templates take it."""

TEXT, POOLED = "transformer joint_attention_dim", "transformer pooled_projection_dim"


def prompt_alone(prompt: str) -> Messages:
    """A conversation that begins with the prompt."""
    return [{"role": "user", "content": prompt}]


def encoding_peak(tokens: int, heads: int, inner: int) -> int:
    """Numbers that encoding a prompt takes: scores and their softmax, and the MLP of width `inner`.

    `planning/memory.py` tells what was measured.
    """
    return tokens * (2 * heads * tokens + 4 * inner)


def language_encoding(config: dict[str, Any], tokens: int) -> int:
    """`encoding_peak` of a language model, by its config."""
    return encoding_peak(tokens, config["num_attention_heads"], config["intermediate_size"])


def _t5_encoding(config: dict[str, Any], tokens: int) -> int:
    return encoding_peak(tokens, config["num_heads"], config["d_ff"])


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """Facts of a model family. How it computes is in `engine/families/`, under the same name."""

    name: str
    # By the component's folder.
    components: Mapping[str, Component]
    # By the tokenizer's folder. The last one's length limits a prompt.
    tokenizers: Mapping[str, TokenizerKind]
    # From the configurations of components to widths that have to be equal: what, is, expected.
    fits: Callable[[Mapping[str, Any]], Iterator[tuple[str, int, int]]]
    # Width of a token in latent pixels.
    patch: int
    # From transformer config, image tokens and text tokens to the FLOP of one picture's step.
    step_flops: Callable[[dict[str, Any], int, int], float]
    # Numbers that blocks take at their peak, for each token and value of its width:
    # `planning/memory.py` tells what was measured.
    activations: int
    # Text tokens beside those of T5.
    clip_tokens: int = 0
    # Every picture has classifier-free guidance, not only those with a negative prompt; unless the
    # model is distilled.
    contrasts: bool = False
    # What the tokenizer's chat template is told beside the conversation; None: it has no template.
    # Unless it says otherwise, the answer is begun.
    chat: Mapping[str, Any] | None = None
    # Where there is no template: the text around every prompt.
    around: tuple[str, str] = ("", "")
    # How many tokens, the first ones, are encoded and then dropped. No limit counts them.
    unread: int = 0
    # From a prompt to the conversation.
    messages: Callable[[str], Messages] = prompt_alone
    # From the largest text encoder's config and a prompt's tokens to the numbers that encoding
    # takes beside the weights.
    encoding: Callable[[dict[str, Any], int], int] = _t5_encoding
    # Part of the transformer that computes all modulations; "": parts that are called so, and the
    # linears in the blocks' norms.
    modulator: str = ""
    # From the transformer's config to the values of one row's modulations in a step; None: the
    # outputs of those linears.
    modulations: Callable[[dict[str, Any]], int] | None = None
    # The `guidance` at and below which a picture has no classifier-free guidance.
    unguided: float = 1.0
    # The numbers of image tokens and of text tokens are padded to multiples of this.
    token_multiple: int = 1
    # The transformer's lists of blocks that every step calls.
    stacks: tuple[str, ...] = ("transformer_blocks", "single_transformer_blocks")
    # Components that the pipeline can do without, and batchgen always does → what follows from it,
    # for people; "": nothing.
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokenizer(self) -> str:
        """Folder of the tokenizer whose length limits a prompt."""
        return list(self.tokenizers)[-1]

    @property
    def text(self) -> str:
        """Folder of the text encoder that this tokenizer serves, the largest one."""
        return encoder_of(self.tokenizer)

    @property
    def classes(self) -> dict[str, list[tuple[str, str]]]:
        """Every component of the pipeline → the libraries and classes that it may have."""
        built = {
            name: [(component.library, component.class_name)]
            for name, component in self.components.items()
        }
        tokenizers = {
            name: [
                ("transformers", each)
                for each in (*kind.class_names, *ANY_TOKENIZER, kind.processor)
                if each
            ]
            for name, kind in self.tokenizers.items()
        }
        return {"scheduler": [("diffusers", SCHEDULER)], **built, **tokenizers}


def encoder_of(tokenizer: str) -> str:
    """Folder of the text encoder that a tokenizer serves."""
    return tokenizer.replace("tokenizer", "text_encoder")
