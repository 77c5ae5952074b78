"""A configuration with an impossible value is refused, with the key and what is expected."""

import inspect
import json
from typing import Any

import pytest
from diffusers import (
    AutoencoderKL,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)

from batchgen.errors import ModelError
from batchgen.model import TINY
from batchgen.model.components.autoencoder import Vae
from batchgen.model.components.clip import Clip
from batchgen.model.components.config import Config, parse_config
from batchgen.model.components.scheduler import Scheduler
from batchgen.model.components.t5 import T5
from batchgen.model.families.chroma import ChromaTransformer
from batchgen.model.families.flux import FluxTransformer
from batchgen.model.families.sd3 import SD3Transformer
from tests.model.test_expected import SD3


@pytest.mark.parametrize(
    ("kind", "built"),
    [
        (ChromaTransformer, ChromaTransformer2DModel),
        (FluxTransformer, FluxTransformer2DModel),
        (SD3Transformer, SD3Transformer2DModel),
        (Vae, AutoencoderKL),
        (Scheduler, FlowMatchEulerDiscreteScheduler),
    ],
)
def test_the_keys_of_diffusers_are_known(kind: type[Config], built: Any) -> None:
    # What published folders of Chroma repeat of FLUX.1's.
    repeated = {"guidance_embeds", "pooled_projection_dim"} if kind is ChromaTransformer else set()
    keys = set(inspect.signature(built.__init__).parameters) - {"self"}
    assert set(kind.model_fields) == keys | repeated


KINDS = {
    "transformer": FluxTransformer,
    "vae": Vae,
    "text_encoder": Clip,
    "text_encoder_2": T5,
    "scheduler": Scheduler,
}
IMPOSSIBLE = [
    ("transformer", {"num_attention_heads": 0}, "num_attention_heads = 0"),
    ("transformer", {"num_layers": 2.5}, "num_layers = 2.5"),
    ("transformer", {"num_layers": 10**9}, "num_layers = 1000000000"),
    ("transformer", {"num_layers": -1}, "num_layers = -1"),
    ("transformer", {"num_layers": "2"}, 'num_layers = "2"'),
    ("transformer", {"num_layers": True}, "num_layers = true"),
    ("transformer", {"num_layers": ...}, "num_layers is missing"),
    ("transformer", {"in_channels": None}, "in_channels = null"),
    ("transformer", {"patch_size": 2}, "patch_size = 2"),
    ("transformer", {"axes_dims_rope": [8, 12, 10]}, "whose sum is attention_head_dim = 32"),
    ("transformer", {"axes_dims_rope": [9, 11, 12]}, "three even numbers"),
    ("transformer", {"out_channels": 16}, "expected null or in_channels = 64"),
    ("transformer", {"depth": 3}, "depth is no key that diffusers reads here"),
    ("vae", {"block_out_channels": None}, "block_out_channels = null"),
    ("vae", {"block_out_channels": []}, "block_out_channels = []"),
    ("vae", {"block_out_channels": [16, 0, 64, 64]}, "block_out_channels.1 = 0"),
    ("vae", {"block_out_channels": [16, 32, 64]}, "expected equal lengths"),
    ("vae", {"norm_num_groups": 3}, "norm_num_groups = 3: expected a divisor of every number"),
    ("vae", {"scaling_factor": 0}, "scaling_factor = 0"),
    ("vae", {"scaling_factor": float("nan")}, "scaling_factor = NaN"),
    ("vae", {"shift_factor": None}, "shift_factor = null"),
    ("vae", {"act_fn": "none"}, 'act_fn = "none"'),
    ("text_encoder", {"num_attention_heads": 3}, "expected a divisor of hidden_size = 64"),
    ("text_encoder", {"vocab_size": 0}, "vocab_size = 0"),
    ("text_encoder", {"hidden_act": "x"}, 'hidden_act = "x"'),
    ("text_encoder", {"layer_norm_eps": 7}, "layer_norm_eps = 7: expected a number with a decimal"),
    ("text_encoder", {"return_dict": False}, "return_dict = false"),
    ("text_encoder_2", {"is_decoder": True}, "is_decoder = true"),
    ("text_encoder_2", {"eos_token_id": "x"}, 'eos_token_id.int = "x"'),
    ("text_encoder_2", {"num_heads": None}, "num_heads = null"),
    ("text_encoder_2", {"feed_forward_proj": "gated"}, 'feed_forward_proj = "gated"'),
    ("text_encoder_2", {"dense_act_fn": "gexlu_new"}, 'dense_act_fn = "gexlu_new"'),
    ("scheduler", {"stochastic_sampling": True}, "stochastic_sampling = true"),
    ("scheduler", {"invert_sigmas": True}, "invert_sigmas = true"),
    ("scheduler", {"shift": 0}, "shift = 0"),
    ("scheduler", {"base_shift": None}, "base_shift = null"),
    ("scheduler", {"max_image_seq_len": 256}, "expected two different numbers"),
    ("scheduler", {"algorithm_type": "x"}, "algorithm_type is no key that diffusers reads here"),
    ("scheduler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "expected one at most"),
]


@pytest.mark.parametrize(("component", "changes", "told"), IMPOSSIBLE)
def test_an_impossible_value_is_refused(component: str, changes: dict[str, Any], told: str) -> None:
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    content = json.loads((TINY / component / name).read_text())
    parse_config(content, KINDS[component], where="x/config.json")
    content = {key: value for key, value in (content | changes).items() if value is not ...}
    with pytest.raises(ModelError) as error:
        parse_config(content, KINDS[component], where="x/config.json")
    assert str(error.value).startswith("x/config.json: ")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"caption_projection_dim": 8}, "expected num_attention_heads × attention_head_dim = 16"),
        ({"dual_attention_layers": [0, 3]}, "expected numbers below num_layers = 3"),
        ({"qk_norm": "layer_norm"}, 'qk_norm = "layer_norm"'),
        ({"pos_embed_max_size": None}, "pos_embed_max_size = null"),
    ],
)
def test_an_impossible_value_of_sd3_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError) as error:
        parse_config(SD3 | changes, SD3Transformer, where="x")
    assert told in str(error.value)


def test_every_problem_of_a_configuration_is_told_at_once() -> None:
    with pytest.raises(ModelError, match=r"in_channels = 0.*; num_layers = 0"):
        parse_config(SD3 | {"in_channels": 0, "num_layers": 0}, SD3Transformer, where="x")
