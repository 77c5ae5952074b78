"""The model that travels with the package: a FLUX.1 small enough to paint on a laptop.

`TINY` is a folder that stock `FluxPipeline.from_pretrained` loads; `training` is how it was made.
"""

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
