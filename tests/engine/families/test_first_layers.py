"""A language model is loaded as far as a family reads it; test_mistral3.py has the other kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from batchgen.engine.device import Device
from batchgen.engine.families.first_layers import FirstLayers
from batchgen.engine.families.loading import load_module, straight_to_device

CPU = Device(torch.device("cpu"), torch.float32, "a test")
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("kind", [Qwen3Model, Qwen3ForCausalLM])
@pytest.mark.parametrize("end", [2, -1])
def test_of_qwen3_the_first_layers_are_loaded_and_the_others_never(
    kind: Any, end: int, tmp_path: Path
) -> None:
    """Sent straight to a card, the others would have taken its memory."""
    torch.manual_seed(0)
    whole = kind(Qwen3Config(**SIZES)).eval()
    whole.save_pretrained(tmp_path / "text_encoder")
    sent: list[int] = []

    def load(*words: Any) -> Any:
        module = load_module(*words)
        sent.append(len(module.layers))
        return module

    send = straight_to_device(load, {"text_encoder": torch.float32})
    read = send(tmp_path, "text_encoder", FirstLayers(end), CPU)
    count = len(range(4)[:end])
    assert sent == [count]
    ids = torch.randint(40, (2, 20))
    with torch.inference_mode():
        hidden = whole(input_ids=ids, output_hidden_states=True).hidden_states
        assert torch.equal(read(input_ids=ids).last_hidden_state, hidden[count])
        every = read(input_ids=ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(one, other) for one, other in zip(every, hidden, strict=False))
    assert {name.split(".")[0] for name, _ in read.named_parameters()} == {"embed_tokens", "layers"}
