"""The embedded model, whole and as a copy that a test may break."""

from tests.engine.conftest import dev, model_folder

__all__ = ["dev", "model_folder"]
