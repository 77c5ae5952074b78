"""Stage two: the rectified flow, transformer and both text encoders together.

The transformer learns the velocity `noise - latents` at `(1 - t) * latents + t * noise`. Because a
caption fixes its picture, obedience is learned where there is almost only noise; so the timesteps
lean to that side. Matrices inside the blocks are optimised with Muon, all else with AdamW.

Linear layers multiply in bf16 (AMX) and everything else stays fp32: on these widths plain
autocast is slower than fp32, because the attention and the element-wise kernels lose more than
the matrices win. Together with torch.compile that is 1.5× plain fp32.
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
LONG_TEXTS = ((64, 12), (128, 8), (512, 2))  # rare paddings, with the batch they leave room for
MATRIX_RATE, OTHER_RATE = 3e-3, 1.5e-3
EMA = 0.998


class Painter(nn.Module):
    """Everything the flow trains; `publish` in `folder` takes its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = folder.new_clip()
        self.t5 = folder.new_t5()
        self.transformer = folder.new_transformer()
        zero_outputs(self.transformer)

    def velocity(self, batch: Batch, noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The predicted velocity, B × S × 64, of latents at noise share `time`."""
        text = self.t5(batch.t5_ids)[0]
        guidance = 1 + 7 * torch.rand(len(time))  # any guidance does: it must only do no harm
        usual = text.shape[1] == TEXT_TOKENS
        paint = self.transformer if usual else self.transformer.forward  # forward: not compiled
        return paint(
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
    """Blocks start as the identity and the output as zero; diffusers leaves them random."""
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
    """Lets every linear layer with a bias multiply in bf16; the weights stay fp32."""

    def forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return HalfLinear.apply(x, self.weight, self.bias)

    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.forward = types.MethodType(forward, layer)  # type: ignore[method-assign]


def optimizers(painter: Painter) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, modulations, norms and text."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in painter.named_parameters():
        block = "transformer_blocks" in name and "norm" not in name and parameter.ndim == 2
        (matrices if block else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def times(count: int) -> torch.Tensor:
    """Three in four logit-normal on the noisy side, the rest uniform."""
    noisy = torch.sigmoid(1.8 + torch.randn(count))
    return torch.where(torch.rand(count) < 0.75, noisy, torch.rand(count))


def loss(painter: Painter, batch: Batch) -> torch.Tensor:
    """The mean squared error of the velocity."""
    noise, time = torch.randn_like(batch.latents), times(len(batch.latents))
    mix = time[:, None, None]
    noisy = (1 - mix) * batch.latents + mix * noise
    velocity = painter.velocity(batch, noisy, time)
    return (velocity - (noise - batch.latents)).square().mean()


def draw_batch(corpus: Corpus, shared: random.Random, narrow: bool) -> Batch:
    """Squares alone while `narrow`, else any size; three steps in a hundred with a long padding.

    `shared` is in the same state in all processes, so that all take steps of the same cost.
    """
    size = SIZES[0] if narrow else shared.choice(SIZES)
    text_tokens, count = TEXT_TOKENS, PER_PROCESS
    if shared.random() < 0.03:
        text_tokens, count = shared.choice(LONG_TEXTS)
    return corpus.batch(size, count, text_tokens)


@torch.no_grad()
def follow(average: Painter, painter: Painter, step: int) -> None:
    """Moves the averaged weights towards the trained ones."""
    decay = min(EMA, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), painter.parameters(), strict=True):
        target.lerp_(source, 1 - decay)


def train(
    rank: int,
    painter: Painter,
    corpus: Corpus,
    minutes: float,
    narrow: float,
    rate: float,
    save: Callable[[Painter], None],
) -> Painter:
    """Trains in place, the first share `narrow` of the time on squares alone.

    Returns the averaged weights; `save` gets them every few minutes.
    """
    average = copy.deepcopy(painter)
    halve_linears(painter)
    painter.transformer.compile(dynamic=False)  # two graphs: 64 and 96 image tokens
    steppers, shared = optimizers(painter), random.Random(0)
    peaks = [rate * stepper.param_groups[0]["lr"] for stepper in steppers]
    clock, step, saved, mean = parallel.Clock(minutes), 0, 0.0, 1.0
    while (progress := clock.progress()) < 1:
        for stepper, peak in zip(steppers, peaks, strict=True):
            stepper.param_groups[0]["lr"] = peak * min(1.0, step / 100, 0.01 + 1.5 * (1 - progress))
        value = loss(painter, draw_batch(corpus, shared, progress < narrow))
        painter.zero_grad()
        value.backward()
        parallel.average_gradients(painter.parameters())
        for stepper in steppers:
            stepper.step()
        follow(average, painter, step)
        mean += 0.02 * (float(value.detach()) - mean)
        if rank == 0 and step % 100 == 0:
            parallel.report(f"flow {progress:.3f} step {step} loss {mean:.4f}")
        if rank == 0 and (progress - saved) * minutes > 4:
            save(average)
            saved = progress
        step += 1
    return average


def load(painter: Painter, source: Path) -> AutoencoderKL:
    """Takes the weights of a saved pipeline into `painter`; returns its autoencoder."""
    painter.clip = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32)
    painter.t5 = T5EncoderModel.from_pretrained(source / "text_encoder_2", dtype=torch.float32)
    painter.transformer = FluxTransformer2DModel.from_pretrained(
        source, subfolder="transformer", torch_dtype=torch.float32
    )
    return AutoencoderKL.from_pretrained(source, subfolder="vae", torch_dtype=torch.float32)
