"""A model folder and what identifies it. Imports no torch: this is for planning.

`resolve` turns the job's `[model]` into a `Checkpoint`, having checked everything about the files that can be checked
without loading them: a run should refuse at `plan`, not after an hour in the queue. Weights are loaded by `engine/`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from batchgen.errors import ModelError
from batchgen.model.families import FAMILIES, FamilyFacts
from batchgen.model.weights import digest, read_header
from batchgen.settings import MAX_SIDE_PX, Lora, Model

TINY = Path(__file__).parent / "tiny"  # the embedded model, a folder in diffusers layout
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = ("model", "diffusion_pytorch_model")  # file names: of transformers, of diffusers
_LOADED = (  # of a component; duplicates in other precisions (`model.fp16.safetensors`) and formats are not
    "*.json",
    "*.txt",
    "*.model",
    *(f"{name}{part}.safetensors" for name in _WEIGHTS for part in ("", "-?????-of-?????")),
)
_ACCEPTED = 'model.path takes "tiny" (embedded), a folder in diffusers layout (it holds model_index.json), or a hub id such as "org/name"'


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine's disk, checked, and what identifies it wherever it lies."""

    folder: Path  # diffusers layout
    family: str  # its file in engine/
    revision: str  # hub commit; "" for a folder
    identity: dict[str, str]  # file, relative to the folder → digest; LoRAs as `lora/0/name`

    @property
    def pixel_multiple(self) -> int:
        """Width and height must be multiples of this many px: what the VAE shrinks by, times the patch."""
        shrink = 2 ** (len(self.config("vae")["block_out_channels"]) - 1)
        return int(shrink * self._facts().patch)

    @property
    def most_px(self) -> int:
        """The longest side that the model knows positions for."""
        key = self._facts().most_positions
        return (
            min(MAX_SIDE_PX, int(self.config("transformer")[key]) * self.pixel_multiple)
            if key
            else MAX_SIDE_PX
        )

    @property
    def heads(self) -> int:
        """Attention heads of the transformer."""
        return int(self.config("transformer")["num_attention_heads"])

    @property
    def contrasts(self) -> bool:
        """Whether guidance is classifier-free by nature: two rows a picture."""
        return self._facts().contrasts

    @property
    def blocks(self) -> int:
        """Transformer blocks."""
        config = self.config("transformer")
        return int(config["num_layers"] + config.get("num_single_layers", 0))

    @property
    def t5(self) -> str:
        """Component folder of the T5 encoder."""
        return self._facts().t5_tokenizer.replace("tokenizer", "text_encoder")

    def tokens(self, width: int, height: int, max_sequence_length: int) -> tuple[int, int]:
        """Image and text tokens of a picture of so many px."""
        multiple = self.pixel_multiple
        return (width // multiple) * (
            height // multiple
        ), max_sequence_length + self._facts().clip_tokens

    def components(self) -> list[str]:
        """Folders that hold weights."""
        return [name for name in _components(self.folder) if any(_weight_files(self.folder / name))]

    def tensors(self, component: str) -> dict[str, tuple[int, ...]]:
        """Name → shape of a component's weights, from the headers of its files."""
        headers = [read_header(path) for path in _weight_files(self.folder / component)]
        return {
            name: tuple(entry["shape"])
            for header in headers
            for name, entry in header.items()
            if name != "__metadata__"
        }

    def parameters(self, component: str) -> int:
        """Numbers in a component's weights."""
        return sum(math.prod(shape) for shape in self.tensors(component).values())

    def token_counter(self) -> Callable[[str], int]:
        """A function from prompt to its T5 tokens, the end token included: what `model.max_sequence_length` limits."""
        tokenizer = Tokenizer.from_file(
            str(self.folder / self._facts().t5_tokenizer / "tokenizer.json")
        )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return lambda prompt: len(tokenizer.encode(prompt).ids)

    def flops(self, width: int, height: int, steps: int, text_tokens: int, cfg: bool) -> float:
        """FLOP of one picture's denoising, text padded to `text_tokens`; twice that with classifier-free guidance.

        Matrix products of the blocks only, a multiply and an add counted as two: FLUX.1 at 1024×1024 px and 512 tokens takes
        74.4e12 a step. Text encoders and VAE (15e12 a picture there) are left out.
        """
        facts = self._facts()
        step = facts.step_flops(
            self.config("transformer"), *self.tokens(width, height, text_tokens)
        )
        return step * steps * (2 if cfg or facts.contrasts else 1)

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration."""
        return _read_json(self.folder / component / "config.json")

    def _facts(self) -> FamilyFacts:
        return next(facts for facts in FAMILIES.values() if facts.name == self.family)


def resolve(model: Model) -> Checkpoint:
    """Find the model, fetch it if it is on the hub, check its files and digest them.

    :raises ModelError: unknown path, no family for its pipeline class, pickled or broken weights, missing LoRA, hub out of reach.
    """
    folder, revision = _locate(model)
    facts = _family(folder)
    files = sorted(_model_files(folder))
    if not (folder / facts.t5_tokenizer / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder}: {facts.t5_tokenizer}/tokenizer.json is missing; save the tokenizer again with save_pretrained."
        )
    identity = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    for number, lora in enumerate(model.lora):
        identity[f"lora/{number}/{Path(lora.path).name}"] = _lora_digest(lora)
    return Checkpoint(folder, facts.name, revision, identity)


def _locate(model: Model) -> tuple[Path, str]:
    """The folder of the model and its hub commit."""
    path = Path(model.path).expanduser()
    if _HUB_ID.fullmatch(model.path) and not path.parent.is_dir():
        return _download(model)
    if model.revision:
        raise ModelError(
            f"model.revision = {model.revision!r} applies to hub ids only; model.path is {model.path!r}"
        )
    if model.path == "tiny":
        return TINY, ""
    if not path.is_dir():
        raise ModelError(f"model.path = {model.path!r}: no such folder. {_ACCEPTED}.")
    return path.resolve(), ""


def _download(model: Model) -> tuple[Path, str]:
    """The hub's snapshot: the index first, so that a model of no family is refused before gigabytes move."""
    import huggingface_hub as hub  # here: a third of a second, and most runs need it not

    revision = model.revision or None
    try:
        index = Path(hub.hf_hub_download(model.path, "model_index.json", revision=revision))
        _family(index.parent)
        folder = Path(
            hub.snapshot_download(
                model.path,
                revision=index.parent.name,
                allow_patterns=wanted(_components(index.parent)),
            )
        )
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        raise ModelError(
            f"model.path = {model.path!r}: no such folder, and the hub did not give it: {error}\n{_ACCEPTED}. "
            f"Where there is no network, fetch it elsewhere: hf download {model.path} --local-dir FOLDER, then --set model.path=FOLDER"
        ) from None
    return folder, folder.name


def wanted(components: Iterable[str]) -> list[str]:
    """Patterns of the files that loading these components reads; a hub's repository often holds each weight several times."""
    return [
        "model_index.json",
        *(f"{component}/{pattern}" for component in components for pattern in _LOADED),
    ]


def _family(folder: Path) -> FamilyFacts:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{folder}: holds no model_index.json. {_ACCEPTED}; convert a single .safetensors file with save_pretrained."
        )
    name = _read_json(index).get("_class_name", "")
    if name not in FAMILIES:
        raise ModelError(
            f"{index}: pipeline class {name!r} has no family here; known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def _components(folder: Path) -> list[str]:
    """Component folders the index names; `[null, null]` stands for one that is absent by design."""
    index = _read_json(folder / "model_index.json")
    return [name for name, value in index.items() if isinstance(value, list) and value and value[0]]


def _model_files(folder: Path) -> Iterator[Path]:
    """Every file that loading reads, checked: components there, weights in safetensors and whole."""
    yield folder / "model_index.json"
    for component in _components(folder):
        path = folder / component
        if not path.is_dir():
            raise ModelError(
                f"{folder}: model_index.json names {component}/, which is missing; fetch the model again."
            )
        files = [
            file
            for file in path.iterdir()
            if any(fnmatchcase(file.name, pattern) for pattern in _LOADED) and file.is_file()
        ]
        weights = {file.name for file in _weight_files(path)}
        if "quantization_config" in (
            config := _read_json(path / "config.json") if (path / "config.json").is_file() else {}
        ):
            raise ModelError(
                f"{path}: an already quantized checkpoint, which batchgen does not load; give the bf16 one."
            )
        if config and not weights:
            raise ModelError(
                f"{path}: no .safetensors weights of the plain name (model.safetensors, diffusion_pytorch_model.safetensors, or their "
                "parts); pickled .bin and variants such as .fp16 are never loaded. Convert: pipe.save_pretrained('NEW-FOLDER')"
            )
        for index in (path / f"{name}.safetensors.index.json" for name in _WEIGHTS):
            if index.is_file() and (
                missing := set(_read_json(index)["weight_map"].values()) - weights
            ):
                raise ModelError(
                    f"{path}: {', '.join(sorted(missing))} missing, named by {index.name}; fetch the model again."
                )
        for name in weights:
            read_header(path / name)
        yield from files


def _weight_files(component: Path) -> Iterator[Path]:
    """A component's weights, as loading finds them."""
    return (
        file
        for file in component.glob("*.safetensors")
        if any(fnmatchcase(file.name, pattern) for pattern in _LOADED)
    )


def _lora_digest(lora: Lora) -> str:
    path = Path(lora.path).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.lora path = {lora.path!r}: no such file; give one .safetensors file."
        )
    read_header(path)
    return digest(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return tree
