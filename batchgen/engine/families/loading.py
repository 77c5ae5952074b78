"""The parts of a model folder in diffusers layout, loaded: what all families need alike.

Weights are safetensors, all files are local, and no code from the folder runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from batchgen.engine.device import Device, upload
from batchgen.engine.quiet_imports import without_lines
from batchgen.errors import ModelError, counted

# transformers lists every tensor that it leaves out. Planning has checked which these may be.
_REPORT = {"transformers.modeling_utils": "LOAD REPORT"}

LoadModule = Callable[[Path, str, Any, Device], Any]
"""As `load_module`."""


def load_module(folder: Path, component: str, kind: Any, device: Device) -> Any:
    """A component in evaluation mode, in the device's type, on the host.

    Weights that the files hold in that type are mapped from them: all workers of a node share the
    pages of its file cache. Others are converted, which takes as much memory again for each worker.

    :param kind: its class in diffusers or transformers.
    :raises ModelError: it does not load as that kind, or weights are missing, which the library
        would fill with random numbers.
    """
    path = folder / component
    try:
        with without_lines(_REPORT):
            module, found = kind.from_pretrained(
                path,
                dtype=device.dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # the libraries raise whatever they like
        raise ModelError(f"{path}: does not load as {kind.__name__}: {error}") from error
    if missing := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise ModelError(
            f"{path}: {counted(len(missing), 'weight')} of {kind.__name__}, missing or of another "
            f"shape: {', '.join(missing[:3])}"
        )
    return module.eval()


def straight_to_device(load: LoadModule, stored: Mapping[str, torch.dtype]) -> LoadModule:
    """Like `load`, but some components go to the device, and the host never holds them.

    They are mapped in their files' type. Each tensor is converted on its way.

    :param stored: these components, and the type of their numbers in the files.
    """

    def load_or_send(folder: Path, component: str, kind: Any, device: Device) -> Any:
        if component not in stored:
            return load(folder, component, kind, device)
        module = load(folder, component, kind, replace(device, dtype=stored[component]))
        return torch.nn.Module.to(module, device.kind, device.dtype)

    return load_or_send


def without_transformer(load: LoadModule) -> LoadModule:
    """Like `load`, but the transformer is its structure alone, on the meta device."""

    def load_or_sketch(folder: Path, component: str, kind: Any, device: Device) -> Any:
        if component != "transformer":
            return load(folder, component, kind, device)
        with torch.device("meta"):
            module = kind.from_config(kind.load_config(folder / component))
        # Not diffusers' own `to`, which keeps some modules of other models in fp32.
        return torch.nn.Module.to(module.eval(), device.dtype)

    return load_or_sketch


def load_tokenizer(folder: Path, component: str) -> Any:
    """A tokenizer. Planning has checked its files: `model/tokenizer_files.py`.

    :raises ModelError: it does not load.
    """
    path = folder / component
    try:
        return transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the libraries raise whatever they like
        raise ModelError(f"{path}: the tokenizer does not load: {error}") from error


def tokenize(tokenizer: Any, texts: Sequence[str], length: int, **options: Any) -> Any:
    """`input_ids` and `attention_mask` of B texts, [B, length], padded or cut; on the host.

    :param options: of the tokenizer.
    """
    usual = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(texts), max_length=length, **usual, **options)


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int, device: Device) -> Tensor:
    """Token ids [B, length] of B prompts, padded or cut, on the device."""
    return upload(tokenize(tokenizer, prompts, length).input_ids, device.kind)


def load_scheduler(folder: Path) -> Any:
    """The flow-matching Euler scheduler, for its noise levels. `denoise.py` takes the steps itself.

    Planning has checked that the folder asks for it, and for plain steps: `model/components/`.
    """
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler
    return scheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)


def shifted_scheduler(scheduler: Any, shift: float) -> Any:
    """The scheduler that moves noise levels by this shift, and does nothing else to them.

    :param scheduler: of the model, for the number of levels with which that was trained.
    """
    return type(scheduler)(num_train_timesteps=scheduler.config.num_train_timesteps, shift=shift)
