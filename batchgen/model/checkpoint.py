"""A model folder and what identifies it, without torch.

`resolve` turns the job's `[model]` into a `Checkpoint`. It checks all that can be checked without
loading the weights, so that a run is refused at `plan` and not after an hour in the queue. The
weights are loaded by `engine/`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from batchgen.errors import ModelError
from batchgen.model.configs import parse_config
from batchgen.model.expected import expected_tensors
from batchgen.model.families import FAMILIES, FamilyFacts
from batchgen.model.folder import component_files, named_components, read_json, wanted, weight_files
from batchgen.model.weights import digest, read_header
from batchgen.settings import MAX_SIDE_PX, Lora, Model

# The embedded model, a folder in diffusers layout.
TINY = Path(__file__).parent / "tiny"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ACCEPTED = (
    'model.path takes "tiny" (embedded), a folder in diffusers layout (it holds model_index.json), '
    'or a hub id such as "org/name"'
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine's disk: checked, identified wherever it is, and known to planning."""

    # In diffusers layout.
    folder: Path
    # Name of the family's file in engine/families/.
    family: str
    # File, relative to the folder → digest. LoRAs are `lora/NUMBER/FILE`.
    identity: dict[str, str]
    # Configurations and weight headers, each read once.
    _contents: dict[Path, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def pixel_multiple(self) -> int:
        """Width and height are multiples of this many px: the VAE's reduction times the patch."""
        reduction = 2 ** (len(self.config("vae")["block_out_channels"]) - 1)
        return int(reduction * self._facts.patch)

    @property
    def most_px(self) -> int:
        """The longest side for which the model has positions."""
        key = self._facts.most_positions
        if not key:
            return MAX_SIDE_PX
        return min(MAX_SIDE_PX, int(self.config("transformer")[key]) * self.pixel_multiple)

    @property
    def heads(self) -> int:
        """Attention heads of the transformer."""
        return int(self.config("transformer")["num_attention_heads"])

    @property
    def blocks(self) -> int:
        """Transformer blocks."""
        config = self.config("transformer")
        return int(config["num_layers"] + config.get("num_single_layers", 0))

    @property
    def contrasts(self) -> bool:
        """Whether every picture has classifier-free guidance, and so two rows of the batch."""
        return self._facts.contrasts

    @property
    def t5(self) -> str:
        """Component folder of the T5 encoder."""
        return self._facts.t5_tokenizer.replace("tokenizer", "text_encoder")

    def tokens(self, width: int, height: int, max_sequence_length: int) -> tuple[int, int]:
        """Image and text tokens of a picture of so many px."""
        image = (width // self.pixel_multiple) * (height // self.pixel_multiple)
        return image, max_sequence_length + self._facts.clip_tokens

    def components(self) -> list[str]:
        """Folders that hold weights."""
        return [name for name in named_components(self.folder) if weight_files(self.folder / name)]

    def tensors(self, component: str) -> dict[str, tuple[int, ...]]:
        """Name → shape of a component's weights, from the headers of its files.

        :raises ModelError: a file is broken.
        """
        headers = [
            self._read_once(path, read_header) for path in weight_files(self.folder / component)
        ]
        return {
            name: tuple(entry["shape"])
            for header in headers
            for name, entry in header.items()
            if name != "__metadata__"
        }

    def expected(self, component: str) -> dict[str, tuple[int, ...]]:
        """Name → shape of the tensors that the engine builds of a component: see `expected.py`.

        :raises ModelError: its configuration has impossible values.
        """
        where = str(self.folder / component / "config.json")
        kind = self._facts.components[component].config
        return expected_tensors(parse_config(self.config(component), kind, where=where))

    def parameters(self, component: str) -> int:
        """How many numbers a component's weights have."""
        return sum(math.prod(shape) for shape in self.tensors(component).values())

    def token_counter(self) -> Callable[[str], int]:
        """A function that counts the T5 tokens of a prompt, with the end token.

        This is the number that `model.max_sequence_length` limits.
        """
        path = self.folder / self._facts.t5_tokenizer / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return lambda prompt: len(tokenizer.encode(prompt).ids)

    def flops(self, width: int, height: int, steps: int, text_tokens: int, cfg: bool) -> float:
        """FLOP of one picture's denoising; classifier-free guidance doubles them.

        Counted are the matrix products of the blocks. Text encoders and VAE are left out. FLUX.1
        takes 74.4e12 for a step at 1024×1024 px and 512 text tokens, and its VAE 15e12 for the
        picture.

        :param width: px, as `height`.
        :param text_tokens: T5 tokens to which prompts are padded.
        :param cfg: whether the picture has a negative prompt.
        """
        facts = self._facts
        image, text = self.tokens(width, height, text_tokens)
        step = facts.step_flops(self.config("transformer"), image, text)
        return step * steps * (2 if cfg or facts.contrasts else 1)

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration."""
        return self._read_once(self.folder / component / "config.json", read_json)

    def _read_once(self, path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        if path not in self._contents:
            self._contents[path] = read(path)
        return self._contents[path]

    @property
    def _facts(self) -> FamilyFacts:
        return next(facts for facts in FAMILIES.values() if facts.name == self.family)


def resolve(model: Model) -> Checkpoint:
    """Find the model, fetch it if it is on the hub, check its files and digest them.

    :raises ModelError: unknown path, a pipeline class without a family, pickled or broken weights,
        a missing LoRA, or a hub that does not answer.
    """
    folder = _locate(model)
    facts = _family(folder)
    files = [folder / "model_index.json"]
    for component in named_components(folder):
        files += component_files(folder / component)
    if not (folder / facts.t5_tokenizer / "tokenizer.json").is_file():
        missing = f"{facts.t5_tokenizer}/tokenizer.json is missing"
        raise ModelError(f"{folder}: {missing}; save the tokenizer again with save_pretrained.")
    identity = {path.relative_to(folder).as_posix(): digest(path) for path in sorted(files)}
    for number, lora in enumerate(model.lora):
        identity[f"lora/{number}/{Path(lora.path).name}"] = _lora_digest(lora)
    checkpoint = Checkpoint(folder, facts.name, identity)
    for component in checkpoint.components():
        checkpoint.tensors(component)  # raises if a weight file is broken
    return checkpoint


def _locate(model: Model) -> Path:
    """The folder of the model."""
    path = Path(model.path).expanduser()
    if _HUB_ID.fullmatch(model.path) and not path.parent.is_dir():
        return _download(model)
    if model.revision:
        given = f"model.revision = {model.revision!r} applies to hub ids only"
        raise ModelError(f"{given}; model.path is {model.path!r}")
    if model.path == "tiny":
        return TINY
    if not path.is_dir():
        raise ModelError(f"model.path = {model.path!r}: no such folder. {_ACCEPTED}.")
    return path.resolve()


def _download(model: Model) -> Path:
    """The hub's snapshot of the model.

    The index is fetched first: a model without a family is refused before gigabytes are moved.
    """
    import huggingface_hub as hub  # here, because it takes a third of a second that few runs need

    revision = model.revision or None
    try:
        index = Path(hub.hf_hub_download(model.path, "model_index.json", revision=revision))
        _family(index.parent)
        patterns, commit = wanted(named_components(index.parent)), index.parent.name
        return Path(hub.snapshot_download(model.path, revision=commit, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        raise ModelError(
            f"model.path = {model.path!r}: no such folder, and the hub did not give it: {error}\n"
            f"{_ACCEPTED}. Where there is no network, fetch it elsewhere: "
            f"hf download {model.path} --local-dir FOLDER, then --set model.path=FOLDER"
        ) from None


def _family(folder: Path) -> FamilyFacts:
    index = folder / "model_index.json"
    if not index.is_file():
        remedy = "convert a single .safetensors file with save_pretrained"
        raise ModelError(f"{folder}: holds no model_index.json. {_ACCEPTED}; {remedy}.")
    name = read_json(index).get("_class_name", "")
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"{index}: pipeline class {name!r} has no family here; known: {known}")
    return FAMILIES[name]


def _lora_digest(lora: Lora) -> str:
    path = Path(lora.path).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.lora path = {lora.path!r}: no such file; give one .safetensors file."
        )
    read_header(path)
    return digest(path)
