"""What is on the device when the engine is built.

The meta device stands for a card: weights can be moved there, and nothing is computed. Where
numbers count, a CPU stands for a card: copies are copies, but there are no streams.
"""

import pytest
import torch
from torch import nn

from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.family import Family
from batchgen.engine.modulation import Modulator, hoist_modulations
from batchgen.engine.offload import residence
from batchgen.engine.offload.residence import Offload, Residence
from batchgen.engine.offload.traveller import Traveller
from batchgen.engine.offload.turns import Turns
from batchgen.engine.offload.weights import carve, weights
from batchgen.engine.precision.quantize import choose_format, quantize_blocks
from batchgen.engine.precision.rules import Quantized
from batchgen.errors import JobError, OutOfMemory
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import EngineSettings, Model

CARD, CPU = torch.device("meta"), torch.device("cpu")


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


@pytest.mark.parametrize(("offload", "encoders"), [("none", "meta"), ("text", "cpu")])
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


@pytest.mark.parametrize("offload", ["text", "model"])
def test_where_encoding_fails_the_device_has_room_for_a_smaller_group(
    offload: Offload, model: tuple[Family, Modulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU stands for the card, so who is there is known from who came and left."""
    monkeypatch.setattr(residence, "check_offload", lambda *_, **__: None)
    made = Residence(offload, CPU, *model)
    there: dict[Traveller, bool] = dict.fromkeys(made._transformer, True)
    arrive, leave = Traveller.arrive, Traveller.leave
    monkeypatch.setattr(Traveller, "arrive", lambda own: (arrive(own), there.update({own: True})))
    monkeypatch.setattr(Traveller, "leave", lambda own: (leave(own), there.update({own: False})))
    for _ in range(2):  # and it can be tried again
        with pytest.raises(OutOfMemory, match="here: 2"), made.encoding():
            raise OutOfMemory(f"here: {sum(there[encoder] for encoder in made._encoders)}")
        assert not any(there.values())
    with made.encoding():
        pass
    assert [who for who, here in there.items() if here] == made._transformer


@pytest.mark.parametrize("linear", ["fp32", "int8"])
@pytest.mark.parametrize("count", [2, 3])
def test_blocks_that_come_in_turn_compute_what_they_did(count: int, linear: Quantized) -> None:
    blocks = [nn.Sequential(nn.Linear(32, 32, device=CPU)).eval() for _ in range(count)]
    if linear == "int8":
        quantize_blocks(blocks, choose_format("int8", "row", CPU))
    told = torch.randn(4, 32)
    before = [block(told) for block in blocks]
    turns = Turns(blocks, CPU)
    # Forwards, as in a step; the first alone, as a cache asks; backwards.
    with torch.inference_mode():
        for index in (*range(count), *range(count), 0, 0, *reversed(range(count))):
            assert torch.equal(turns.blocks[index](told), before[index])
    in_places = {weight.value.untyped_storage().data_ptr() for b in blocks for weight in weights(b)}
    assert len(in_places) == 2, "the weights of all blocks are in one of two places"


def test_a_traveller_is_the_same_model_at_home() -> None:
    matrix = nn.Linear(8, 8, bias=False)
    tied = nn.ModuleDict({"one": matrix, "other": matrix, "norm": nn.BatchNorm1d(8)})
    before = {name: tensor.clone() for name, tensor in tied.state_dict().items()}
    matrix.weight.data = matrix.weight.data.t()  # strides are kept
    traveller = Traveller(tied, CPU)
    traveller.arrive()
    traveller.leave()
    assert matrix.weight.stride() == (1, 8)
    matrix.weight.data = matrix.weight.data.t()
    assert all(torch.equal(before[name], now) for name, now in tied.state_dict().items())


def test_memory_is_carved_without_overlap_at_aligned_places() -> None:
    memory, shapes = torch.zeros(4096, dtype=torch.uint8), [(3, 5), (7,), ()]
    tensors = []
    for dtype, shape in zip((torch.bfloat16, torch.int64, torch.float32), shapes, strict=True):
        tensor, memory = carve(memory, torch.empty(shape, dtype=dtype))
        assert tensor.data_ptr() % 8 == 0
        tensors.append(tensor.fill_(len(tensors) + 1))
    assert [tensor.unique().tolist() for tensor in tensors] == [[1], [2], [3]]
    assert [tuple(tensor.shape) for tensor in tensors] == shapes
    assert len(memory) == 4096 - 3 * 256
