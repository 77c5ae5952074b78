"""What an audit compares with is what an engine without a cache makes, bit for bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from batchgen.engine.cache import make_policy
from batchgen.settings.job import Cache
from tests.support.stock import make_picture

CACHES = [Cache(policy="multistep", tolerance=1.0), Cache(policy="first_block", threshold=0.5)]


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache.policy)
def test_an_uncached_group_is_that_of_an_engine_without_a_cache(dev: Any, cache: Cache) -> None:
    plain, small = dev[1], {"width": 64, "height": 64, "steps": 8}
    guided = {"negative_prompt": "three green stars", "true_cfg": 2.5}
    group = [make_picture(0, **small), make_picture(1, **small, **guided)]
    engine = replace(plain, policy=make_policy(cache, "flux", len(plain.family.blocks)))
    cached, uncached, expected = (
        engine.denoise(group),
        engine.denoise(group, cached=False),
        plain.denoise(group),
    )
    assert any("1" in trace.skipped for trace in cached.traces)
    assert torch.equal(uncached.latents, expected.latents)
    assert not torch.equal(uncached.latents, cached.latents)
    assert uncached.traces == ()
