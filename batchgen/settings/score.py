"""`[score]`: a model that looks at every picture, and whose verdict is recorded.

No picture depends on it, and none is left out because of it. Its weights belong to the run: all
records of a run are by one scorer.
"""

from __future__ import annotations

from batchgen.settings.section import Section, setting


class Score(Section):
    """Which model scores the pictures."""

    model: str = setting(
        "",
        "folder or hub id of a CLIP or SigLIP, which score how well picture and prompt agree, or "
        "of an image classifier; empty: none",
    )
