"""A model folder and what identifies it, without torch.

`resolve` turns the job's `[model]` into a `Checkpoint`. It checks all that can be checked without
loading the weights, so that a run is refused at `plan` and not after an hour in the queue. The
weights are loaded by `engine/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from batchgen.errors import ModelError
from batchgen.model.chat_template import read_chat_template
from batchgen.model.component_reader import ComponentReader
from batchgen.model.components.config import AnyTransformer, AnyVae, Config
from batchgen.model.components.scheduler import Scheduler
from batchgen.model.contents import check_weights
from batchgen.model.families import FAMILIES, FamilyFacts, encoder_of
from batchgen.model.folder import component_files, expand_home, named_components
from batchgen.model.guidance import Guidance
from batchgen.model.index import is_distilled, read_index
from batchgen.model.locate import TINY, locate
from batchgen.model.lora import Shape, is_table, linear_name, lora_files, read_lora
from batchgen.model.score_model import ScoreModel
from batchgen.model.token_counter import TokenCounter
from batchgen.model.tokenizer_files import check_tokenizer, read_tokenizer, special_tokens
from batchgen.model.weights import digest
from batchgen.settings import MAX_SIDE_PX, Model

__all__ = ["TINY", "Checkpoint", "resolve"]

# The longest side of the embedded model's pictures. It was trained on 128 and 192 px.
_TINY_MOST_PX = 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine's disk: checked, identified wherever it is, and known to planning."""

    # In diffusers layout.
    folder: Path
    # Name of the family, as `engine/families/` knows it.
    family: str
    # File, relative to the folder → digest. LoRAs are `lora/NUMBER/FILE`.
    identity: dict[str, str]
    # What scores the pictures; None: nothing does.
    scorer: ScoreModel | None = None
    # What `ComponentReader` has read: contents by file, and checked configurations by component.
    _contents: dict[Path, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    _configs: dict[str, Config] = field(default_factory=dict, repr=False, compare=False)

    @property
    def inputs(self) -> dict[str, str]:
        """File → digest of everything that pictures and records come from."""
        scorer = self.scorer.identity if self.scorer else {}
        return self.identity | {f"score/{name}": digest for name, digest in scorer.items()}

    @property
    def pixel_multiple(self) -> int:
        """Width and height are multiples of this many px: the VAE's reduction times the patch."""
        return self.vae.reduction * self._facts.patch

    @property
    def most_px(self) -> int:
        """The longest side that the model is asked for: it has no positions for longer ones.

        The embedded model has, and makes nothing of them.
        """
        if self.folder == TINY:
            return _TINY_MOST_PX
        most = self.transformer.most_side * self.pixel_multiple
        return min(MAX_SIDE_PX, most or MAX_SIDE_PX)

    @property
    def transformer(self) -> AnyTransformer:
        """The transformer's configuration: its heads, width and blocks."""
        config = self._reader.config("transformer")
        assert isinstance(config, AnyTransformer)
        return config

    @property
    def vae(self) -> AnyVae:
        """The VAE's channels, and how many pixels a latent pixel has along a side."""
        return cast("AnyVae", self._reader.config("vae"))

    @property
    def heads(self) -> int:
        """Attention heads of the transformer."""
        return self.transformer.heads

    @property
    def blocks(self) -> int:
        """Transformer blocks."""
        return self.transformer.blocks

    @property
    def stacks(self) -> tuple[str, ...]:
        """The transformer's lists of these blocks."""
        return self._facts.stacks

    @property
    def activations(self) -> int:
        """Numbers that blocks take at their peak, for each token and value of its width."""
        return self._facts.activations

    @property
    def modulator(self) -> str:
        """Part of the transformer that computes all modulations; "": there is none."""
        return self._facts.modulator

    @property
    def modulations(self) -> int | None:
        """Values of one row's modulations in a step; None: the outputs of modulation linears."""
        of = self._facts.modulations
        return None if of is None else of(self.config("transformer"))

    @property
    def contrasts(self) -> bool:
        """Whether every picture has classifier-free guidance, and so two rows of the batch."""
        return self._facts.contrasts and not is_distilled(self.folder)

    @property
    def guidance(self) -> Guidance:
        """Which guidance values of a picture the model reads."""
        embedded = bool(self.config("transformer").get("guidance_embeds"))
        return Guidance(embedded, self.contrasts, self._facts.unguided)

    @property
    def text(self) -> str:
        """Component folder of the largest text encoder."""
        return self._facts.text

    def left_out(self) -> list[str]:
        """What the model's pipeline can do and batchgen does not do with it, for people."""
        named = named_components(self.folder)
        return [what for component, what in self._facts.left_out.items() if component in named]

    def tokens(self, width: int, height: int, max_sequence_length: int) -> tuple[int, int]:
        """Image and text tokens of a picture of so many px, those that the family adds included."""
        image = (width // self.pixel_multiple) * (height // self.pixel_multiple)
        text, multiple = max_sequence_length + self._facts.clip_tokens, self._facts.token_multiple
        return -(-image // multiple) * multiple, -(-text // multiple) * multiple

    def components(self) -> list[str]:
        """Folders of the components with weights."""
        return list(self._facts.components)

    def tensors(self, component: str) -> dict[str, tuple[int, ...]]:
        """Name → shape of the weights that the engine keeps of a component.

        Names are those of `components/`, and so are the shapes: `check` compares them.

        :raises ModelError: a file is missing or broken.
        """
        return self._reader.tensors(component)

    def check(self) -> None:
        """Check that the components are whole, fit each other, and hold nothing without effect.

        :raises ModelError: some are not.
        """
        reader = self._reader
        configs = {name: reader.config(name) for name in self._facts.components}
        self.scheduler()
        for what, given, expected in self._facts.fits(configs):
            if given != expected:
                raise ModelError(
                    f"{self.folder}: {what} = {given}, but the other components give {expected}: "
                    "they are of different models. Fetch all of them again."
                )
        for name, config in configs.items():
            check_weights(config, reader.headers(name), self._facts.components[name].class_name)
        for name, kind in self._facts.tokenizers.items():
            check_tokenizer(self.folder / name, kind, configs[encoder_of(name)])
        self._template()  # raises if it is missing or damaged

    def scheduler(self) -> Scheduler:
        """How the model's noise levels are spaced and moved.

        :raises ModelError: it is another scheduler than the engine's, or has impossible values.
        """
        return self._reader.scheduler()

    def stored_type(self, component: str) -> str:
        """The type of a component's numbers in its files, such as `BF16`; "" where types differ.

        :raises ModelError: a file is missing or broken.
        """
        return self._reader.stored_type(component)

    def linears(self) -> dict[str, Shape]:
        """What a LoRA can change, by `linear_name`: linears of transformer and text encoders."""
        return {
            linear_name(component, name.removesuffix(".weight")): (shape[0], shape[1])
            for component in self.components()
            if component != "vae"
            for name, shape in self.tensors(component).items()
            if len(shape) == 2 and not is_table(name)
        }

    def parameters(self, component: str) -> int:
        """How many numbers a component's weights have."""
        return sum(math.prod(shape) for shape in self.tensors(component).values())

    def token_counter(self) -> TokenCounter:
        """What counts the tokens of a prompt, with the end token or the template's.

        This is the number that `model.max_sequence_length` limits.
        """
        folder, unread = self.folder / self._facts.tokenizer, self._facts.unread
        begin = special_tokens(folder).get("bos_token", "") if self._facts.chat is not None else ""
        return TokenCounter(read_tokenizer(folder), self._template(), begin, unread)

    @property
    def template_bytes(self) -> int:
        """Bytes of the text around a prompt, less one for each token that is not counted."""
        return len(self._template()("").encode()) - self._facts.unread

    def encoding_numbers(self, tokens: int) -> int:
        """Numbers that encoding a prompt of so many tokens takes beside the weights."""
        return self._facts.encoding(self.config(self.text), tokens + self._facts.unread)

    def _template(self) -> Callable[[str], str]:
        """A function from a prompt to what the tokenizer is given.

        :raises ModelError: the chat template that the family needs is missing or damaged.
        """
        facts = self._facts
        if facts.chat is None:
            before, behind = facts.around
            return lambda prompt: f"{before}{prompt}{behind}"
        folder = self.folder / facts.tokenizer
        return read_chat_template(folder, {**special_tokens(folder), **facts.chat}, facts.messages)

    def flops(self, width: int, height: int, steps: int, text_tokens: int, cfg: bool) -> float:
        """FLOP of one picture's denoising; classifier-free guidance doubles them.

        Counted are the matrix products of the blocks. Text encoders and VAE are left out. FLUX.1
        takes 74.4e12 for a step at 1024×1024 px and 512 text tokens, and its VAE 15e12 for the
        picture.

        :param width: px, as `height`.
        :param text_tokens: to which prompts are padded.
        :param cfg: whether the picture has a negative prompt.
        """
        facts = self._facts
        image, text = self.tokens(width, height, text_tokens)
        step = facts.step_flops(self.config("transformer"), image, text)
        return step * steps * (2 if cfg or self.contrasts else 1)

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration."""
        return self._reader.content(component)

    @property
    def _reader(self) -> ComponentReader:
        return ComponentReader(self.folder, self._facts, self._contents, self._configs)

    @property
    def _facts(self) -> FamilyFacts:
        return next(facts for facts in FAMILIES.values() if facts.name == self.family)


def resolve(model: Model) -> Checkpoint:
    """Find the model, fetch it if it is on the hub, check its files and digest them.

    :raises ModelError: the folder is incomplete or damaged, holds something that would have no
        effect, or is of no family; a LoRA is missing; or the hub does not answer.
    """
    try:
        return _resolve(model)
    except OSError as error:
        where = error.filename or model.path
        raise ModelError(f"{where}: cannot be read: {error.strerror or error}.") from None


def _resolve(model: Model) -> Checkpoint:
    folder = locate(model)
    facts = read_index(folder)
    files = [folder / "model_index.json"]
    for component in named_components(folder):
        if component in facts.left_out:
            continue
        files += component_files(folder / component)
    identity = {path.relative_to(folder).as_posix(): digest(path) for path in sorted(files)}
    loras = [expand_home(lora.path) for lora in model.lora]
    for number, lora in enumerate(loras):
        identity |= {f"lora/{number}/{file.name}": digest(file) for file in lora_files(lora)}
    checkpoint = Checkpoint(folder, facts.name, identity)
    checkpoint.check()
    for lora in loras:
        read_lora(lora, checkpoint.linears())  # raises if it does not fit
    return checkpoint
