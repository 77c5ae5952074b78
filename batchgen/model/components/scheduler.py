"""The scheduler: noise levels of a denoising loop."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import Above0, DiffusersConfig, Number, Size

# The class of diffusers whose steps `engine/denoise.py` takes.
SCHEDULER = "FlowMatchEulerDiscreteScheduler"


class Scheduler(DiffusersConfig):
    """Of diffusers' `FlowMatchEulerDiscreteScheduler`.

    Stochastic sampling and inverted noise levels are refused: the engine takes plain Euler steps
    from noise to picture.
    """

    num_train_timesteps: Size = 1000
    shift: Above0 = 1.0
    use_dynamic_shifting: bool = False
    base_shift: Number = 0.5
    max_shift: Number = 1.15
    base_image_seq_len: Size = 256
    max_image_seq_len: Size = 4096
    invert_sigmas: Literal[False] = False
    shift_terminal: Annotated[Number, Field(gt=0, lt=1)] | None = None
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: Literal[False] = False

    def _contradictions(self) -> Iterator[str]:
        if self.max_image_seq_len == self.base_image_seq_len:
            yield "base_image_seq_len and max_image_seq_len: expected two different numbers"
        chosen = self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas
        if sum(map(bool, chosen)) > 1:
            yield "use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: expected one at most"
        if self.use_beta_sigmas and find_spec("scipy") is None:
            yield "use_beta_sigmas needs scipy: pip install scipy"
