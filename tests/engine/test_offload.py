"""What is on the device when the engine is built.

The meta device stands for a card: weights can be moved there, and nothing is computed.
"""

import pytest
import torch
from torch import nn

from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.family import Family
from batchgen.engine.modulation import Modulator, hoist_modulations
from batchgen.engine.offload import Offload, Residence
from batchgen.errors import JobError
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import EngineSettings, Model

CARD = torch.device("meta")


@pytest.fixture
def model() -> tuple[Family, Modulator]:
    family = load_family(resolve(Model()), choose_device(EngineSettings(device="cpu")), 32)
    return family, hoist_modulations(family.blocks)


def places(module: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


def test_weights_are_loaded_onto_the_host(model: tuple[Family, Modulator]) -> None:
    family, modulator = model
    parts = family.transformer, modulator, family.vae, *family.encoders
    assert all(places(part) == {"cpu"} for part in parts)


@pytest.mark.parametrize(
    ("offload", "encoders"), [("none", "meta"), ("text", "cpu"), ("model", "cpu")]
)
def test_everything_goes_to_the_device_but_what_is_not_needed_all_the_time(
    offload: Offload, encoders: str, model: tuple[Family, Modulator]
) -> None:
    family, modulator = model
    Residence(offload, CARD, family, modulator)
    assert all(places(part) == {"meta"} for part in (family.transformer, modulator, family.vae))
    assert all(places(part) == {encoders} for part in family.encoders)


def test_nothing_can_leave_a_cpu(model: tuple[Family, Modulator]) -> None:
    with pytest.raises(JobError, match="there is no device to leave"):
        Residence("text", torch.device("cpu"), *model)
