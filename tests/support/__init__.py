"""What several tests share."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository; processes of tests start there, so that `python -m tests.…` finds them."""
