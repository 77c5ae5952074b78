"""Stage two: a rectified flow trains the transformer and both text encoders together.

The transformer learns the velocity `noise - latents` at `(1 - t) * latents + t * noise`. A caption
fixes its picture, so that what a caption asks for is learned where there is almost only noise: most
timesteps are drawn from there. Muon optimises the matrices inside the blocks, AdamW all else.

Linear layers multiply in bf16, which AMX does fast; all else is fp32. At these widths plain
autocast is slower than fp32: the attention and the element-wise kernels lose more than the matrices
gain. With torch.compile, training is 1.5 times as fast as in plain fp32.
"""

from __future__ import annotations

import copy
import random
import types
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextModel, T5EncoderModel

from training import folder, parallel
from training.corpus import Batch, Corpus
from training.scenes import SIZES

PER_PROCESS = 24
TEXT_TOKENS = 32
# Rare lengths of padded texts, each with the batch that fits in memory beside it.
LONG_TEXTS = ((64, 12), (128, 8), (512, 2))
MATRIX_RATE, OTHER_RATE = 3e-3, 1.5e-3
EMA = 0.998


class FlowModel(nn.Module):
    """All modules that the flow trains."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = folder.new_clip()
        self.t5 = folder.new_t5()
        self.transformer = folder.new_transformer()
        zero_outputs(self.transformer)

    def velocity(self, batch: Batch, noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Predict the velocity, B × S × 64, of latents whose share of noise is `time`."""
        text = self.t5(batch.t5_ids)[0]
        # The model must ignore the guidance scale: any value may be asked for.
        guidance = 1 + 7 * torch.rand(len(time))
        # `forward` is not compiled, so that rare lengths cost no compilation.
        usual = text.shape[1] == TEXT_TOKENS
        transform = self.transformer if usual else self.transformer.forward
        return transform(
            hidden_states=noisy,
            encoder_hidden_states=text,
            pooled_projections=self.clip(batch.clip_ids).pooler_output,
            timestep=time,
            guidance=guidance,
            img_ids=batch.positions,
            txt_ids=torch.zeros(text.shape[1], 3),
            return_dict=False,
        )[0]


def zero_outputs(transformer: FluxTransformer2DModel) -> None:
    """Make blocks start as the identity and the output as zero; diffusers leaves them random."""
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and ("norm" in name or name == "proj_out"):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class HalfLinear(torch.autograd.Function):
    """A linear layer that multiplies in bf16 and returns fp32, forward and backward."""

    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def]  # noqa: D102
        rows, half = x.flatten(0, -2).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, half)
        ctx.shape = x.shape
        return (rows @ half.t()).float().add_(bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: D102
        rows, half = ctx.saved_tensors
        full = gradient.flatten(0, -2)
        part = full.bfloat16()
        return (part @ half).float().view(ctx.shape), (part.t() @ rows).float(), full.sum(0)


def halve_linears(module: nn.Module) -> None:
    """Let every linear layer with a bias multiply in bf16; the weights stay fp32."""

    def forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return HalfLinear.apply(x, self.weight, self.bias)

    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.forward = types.MethodType(forward, layer)


def optimizers(model: FlowModel) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the transformer's blocks, and AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        block = "transformer_blocks" in name and "norm" not in name and parameter.ndim == 2
        (matrices if block else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def times(count: int) -> torch.Tensor:
    """Draw timesteps: three in four logit-normal on the noisy side, the rest uniform."""
    noisy = torch.sigmoid(1.8 + torch.randn(count))
    return torch.where(torch.rand(count) < 0.75, noisy, torch.rand(count))


def loss(model: FlowModel, batch: Batch) -> torch.Tensor:
    """Return the mean squared error of the velocity."""
    noise, time = torch.randn_like(batch.latents), times(len(batch.latents))
    mix = time[:, None, None]
    noisy = (1 - mix) * batch.latents + mix * noise
    velocity = model.velocity(batch, noisy, time)
    return (velocity - (noise - batch.latents)).square().mean()


def draw_batch(corpus: Corpus, shared: random.Random, narrow: bool) -> Batch:
    """Draw squares alone while `narrow`, else any size; three batches in 100 have long texts.

    :param shared: in the same state in all processes, so that their steps take the same time.
    """
    size = SIZES[0] if narrow else shared.choice(SIZES)
    text_tokens, count = TEXT_TOKENS, PER_PROCESS
    if shared.random() < 0.03:
        text_tokens, count = shared.choice(LONG_TEXTS)
    return corpus.batch(size, count, text_tokens)


@torch.no_grad()
def update_average(average: FlowModel, model: FlowModel, step: int) -> None:
    """Move the averaged weights towards the trained ones."""
    decay = min(EMA, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        target.lerp_(source, 1 - decay)


def train(
    rank: int,
    model: FlowModel,
    corpus: Corpus,
    minutes: float,
    narrow: float,
    rate: float,
    save: Callable[[FlowModel], None],
) -> FlowModel:
    """Train `model` in place.

    :param minutes: wall clock.
    :param narrow: share of the time, at the beginning, on squares alone.
    :param rate: factor of the learning rates.
    :param save: called every few minutes by rank 0 with the averaged weights.
    :returns: the averaged weights.
    """
    average = copy.deepcopy(model)
    halve_linears(model)
    # Two graphs: 64 and 96 image tokens.
    model.transformer.compile(dynamic=False)
    steppers, shared = optimizers(model), random.Random(0)
    peaks = [rate * stepper.param_groups[0]["lr"] for stepper in steppers]
    clock, step, saved, mean = parallel.Clock(minutes), 0, 0.0, 1.0
    while (progress := clock.progress()) < 1:
        for stepper, peak in zip(steppers, peaks, strict=True):
            stepper.param_groups[0]["lr"] = peak * min(1.0, step / 100, 0.01 + 1.5 * (1 - progress))
        value = loss(model, draw_batch(corpus, shared, progress < narrow))
        model.zero_grad()
        value.backward()
        parallel.average_gradients(model.parameters())
        for stepper in steppers:
            stepper.step()
        update_average(average, model, step)
        mean += 0.02 * (float(value.detach()) - mean)
        if rank == 0 and step % 100 == 0:
            parallel.report(f"flow {progress:.3f} step {step} loss {mean:.4f}")
        if rank == 0 and (progress - saved) * minutes > 4:
            save(average)
            saved = progress
        step += 1
    return average


def load(model: FlowModel, source: Path) -> AutoencoderKL:
    """Load the weights of a saved pipeline into `model`, and return its autoencoder."""
    model.clip = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32)
    model.t5 = T5EncoderModel.from_pretrained(source / "text_encoder_2", dtype=torch.float32)
    model.transformer = FluxTransformer2DModel.from_pretrained(
        source, subfolder="transformer", torch_dtype=torch.float32
    )
    return AutoencoderKL.from_pretrained(source, subfolder="vae", torch_dtype=torch.float32)
