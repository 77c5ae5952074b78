"""The step caches of diffusers 0.42 and cache-dit 1.5 that work on FLUX.1, by their own names.

diffusers:

    FirstBlockCache            skips while the first block repeats itself, up to a threshold
    MagCache                   skips up to a threshold of accumulated error; it needs ratios, which
                               are calibrated here on this model, as its documentation demands
    TaylorSeer                 extrapolates attention between every n-th step; all else is computed
    TaylorSeer lite            extrapolates the transformer's output between every n-th step
    PyramidAttentionBroadcast  repeats attention between every n-th step; all else is computed
    FasterCache                extrapolates attention between every n-th of the later steps

SeaCache has no adapter for FLUX.1, and TextKVCache is for text that does not depend on the image.

cache-dit: DBCache by its threshold, or at given steps; alone, or with one of its calibrators,
TaylorSeer, FoCa and DMD, which extrapolate what is reused.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

# These of diffusers hook layers inside of the blocks: not possible once blocks are compiled.
INSIDE_BLOCKS = ("TaylorSeer", "PyramidAttentionBroadcast", "FasterCache")
# All steps. By default the first and the last fifth are left alone.
_EVERY_TIMESTEP = (-1, 1001)


def diffusers_cache(
    how: str, value: float, pipeline: Any, steps: int, ratios: Sequence[float]
) -> Any:
    """The configuration for `transformer.enable_cache`.

    :param value: a threshold, or every how many steps something is computed.
    :param steps: of the pictures to come.
    :param ratios: what `mag_ratios` gave.
    """
    if how == "FirstBlockCache":
        return FirstBlockCacheConfig(threshold=value)
    # From the start: better at equal speed than the default, after a fifth of the steps.
    if how == "MagCache":
        return MagCacheConfig(
            threshold=value,
            max_skip_steps=5,
            retention_ratio=0.0,
            num_inference_steps=steps,
            mag_ratios=list(ratios),
        )
    # From the second step on: better at equal speed than the default, the fourth.
    if how.startswith("TaylorSeer"):
        return TaylorSeerCacheConfig(
            cache_interval=int(value),
            disable_cache_before_step=1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=how.endswith("lite"),
        )
    attention = {
        "spatial_attention_block_skip_range": int(value),
        "current_timestep_callback": lambda: pipeline._current_timestep,
    }
    if how == "PyramidAttentionBroadcast":
        return PyramidAttentionBroadcastConfig(
            **attention, spatial_attention_timestep_skip_range=_EVERY_TIMESTEP
        )
    # Only in the later steps, as it is by default: it fails without steps before them.
    if how == "FasterCache":
        return FasterCacheConfig(**attention, is_guidance_distilled=True)
    raise SystemExit(f"diffusers has no {how}")


def mag_ratios(transformer: Any, steps: int, paint: Callable[[], object]) -> list[float]:
    """MagCache's calibration: it prints what is to be copied into its configuration.

    :param paint: paints one picture with the transformer.
    """
    transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=steps))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        paint()
    transformer.disable_cache()
    ratios: list[float] = ast.literal_eval(printed.getvalue().strip().splitlines()[-1])
    return ratios


def cache_dit_settings(how: str, value: float, computed: Sequence[bool]) -> dict[str, Any]:
    """What `cache_dit.enable_cache` takes: the first block decides, without warm-up steps.

    :param value: the threshold.
    :param computed: whether each step is computed; empty: the threshold decides.
    """
    import cache_dit

    calibrators = {
        "DBCache": lambda: None,
        "TaylorSeer": cache_dit.TaylorSeerCalibratorConfig,
        "FoCa": cache_dit.FoCaCalibratorConfig,
        "DMD": cache_dit.DMDCalibratorConfig,
    }
    if how not in calibrators:
        raise SystemExit(f"cache-dit has no {how}; it has {', '.join(calibrators)}")
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=0,
        residual_diff_threshold=value,
        steps_computation_mask=[int(yes) for yes in computed] or None,
        steps_computation_policy="static",
    )
    return {"cache_config": config, "calibrator_config": calibrators[how]()}
