"""The embedded model for tests that need no engine but its files."""

from tests.engine.conftest import dev, model_folder

__all__ = ["dev", "model_folder"]
