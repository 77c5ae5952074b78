"""The parts of a model folder in diffusers layout, loaded: what all families need alike.

Safetensors only, nothing but local files, no code from the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from batchgen.engine.device import Device
from batchgen.errors import ModelError

LoadModule = Callable[[Path, str, Any, Device], Any]
"""As `load_module`."""


def load_module(
    folder: Path, component: str, kind: Any, device: Device
) -> Any:  # a module of that kind; its library is untyped
    """A component in evaluation mode, in the device's type, on the host: what it becomes there is what goes to the device (offload.py).

    :raises ModelError: it does not load as that kind, or weights are missing: the library would fill them with random numbers.
    """
    path = folder / component
    try:
        module, found = kind.from_pretrained(
            path,
            dtype=device.dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: does not load as {kind.__name__}: {error}") from error
    if missing := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise ModelError(
            f"{path}: {len(missing)} weights of {kind.__name__} are missing or of another shape: {', '.join(missing[:3])}"
        )
    return module.eval()


def without_transformer(load: LoadModule) -> LoadModule:
    """`load`, save that the transformer is its structure alone, on the meta device: its weights are in another file."""

    def load_or_sketch(folder: Path, component: str, kind: Any, device: Device) -> Any:
        if component != "transformer":
            return load(folder, component, kind, device)
        with torch.device("meta"):
            module = kind.from_config(kind.load_config(folder / component))
        return torch.nn.Module.to(
            module.eval(), device.dtype
        )  # diffusers' own says that no module of these should stay in fp32

    return load_or_sketch


def load_tokenizer(folder: Path, component: str) -> Any:
    """A tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(
        folder / component, local_files_only=True, trust_remote_code=False
    )


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int, device: Device) -> Tensor:
    """Token ids [B, length], padded or cut."""
    batch = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids.to(device.kind)


def load_scheduler(folder: Path) -> Any:
    """The flow-matching Euler scheduler, for its noise levels; the steps are our own (`denoise.py`).

    :raises ModelError: it is set to do what a plain Euler step from noise to picture is not.
    """
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler
    loaded = scheduler.from_pretrained(folder, subfolder="scheduler")
    if loaded.config.stochastic_sampling or loaded.config.invert_sigmas:
        raise ModelError(
            f"{folder}/scheduler: stochastic_sampling and invert_sigmas are no family's here; set both to false"
        )
    return loaded


def dynamic_shift(scheduler: Any, image_tokens: int) -> float:
    """`mu` of a picture of so many tokens: by how much its noise levels are raised. Schedulers without dynamic shift do not read it."""
    config = scheduler.config
    shift: float = calculate_shift(
        image_tokens,
        config.base_image_seq_len,
        config.max_image_seq_len,
        config.base_shift,
        config.max_shift,
    )
    return shift
