"""[score]: pictures are scored in memory, as they are before they are encoded.

writing thread    decode group k ─ score it ──────── write it
its encoders                     └ encode it ───────┘

A score fails no picture. What cannot be scored is recorded without one, and the worker's log says
why, once. Failed pictures are not scored. What a scorer does leaves no trace in a tar.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batchgen.engine import Scored
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.fidelity import Pixels
from batchgen.manifest import Picture
from batchgen.shard import key_text

log = logging.getLogger(__name__)

Score = Callable[[Sequence[Pixels], Sequence[str]], list[Scored]]
"""As `Engine.score`."""

_NOTHING = Scored(None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the scorer says about a picture, and the picture's share of the seconds that took."""

    scored: Scored = _NOTHING
    seconds: float = 0.0

    def fields(self) -> dict[str, Any]:
        """The fields of the picture's record that say it."""
        labels, probabilities = list(self.scored.labels), list(self.scored.probabilities)
        return {
            "score": self.scored.value,
            "label": labels[0] if labels else None,
            "labels": labels or None,
            "label_scores": probabilities or None,
            "score_s": self.seconds,
        }


UNSEEN = Seen()


@dataclass
class Scoring:
    """The scoring of one run; by default of one without a scorer."""

    score: Score | None = None
    # Whether it was told why a picture has no score.
    _told: bool = False

    def of(self, made: Sequence[tuple[Picture, Pixels]]) -> dict[int, Seen]:
        """What the scorer says about pictures, by key.

        :param made: pictures of a group and their pixels [H, W, 3].
        :raises DeviceFault: the process must end.
        """
        if self.score is None or not made:
            return {}
        begin = time.perf_counter()
        scores = self._try(self.score, made)
        share_s = (time.perf_counter() - begin) / len(made)
        for (picture, _), scored in zip(made, scores, strict=True):
            if scored.value is None:
                self._tell(picture, "what the scorer computed is not finite")
        return {
            picture.key: Seen(scored, share_s)
            for (picture, _), scored in zip(made, scores, strict=True)
        }

    def _try(self, score: Score, made: Sequence[tuple[Picture, Pixels]]) -> list[Scored]:
        """Score pictures together; in halves if they do not fit into memory."""
        try:
            return score([pixels for _, pixels in made], [one.prompt for one, _ in made])
        except DeviceFault:
            raise
        except OutOfMemory as error:
            if len(made) > 1:
                middle = len(made) // 2
                return self._try(score, made[:middle]) + self._try(score, made[middle:])
            self._tell(made[0][0], f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever is raised costs scores alone
            self._tell(made[0][0], f"{type(error).__name__}: {error}")
        return [_NOTHING] * len(made)

    def _tell(self, picture: Picture, why: str) -> None:
        if not self._told:
            self._told = True
            text = "picture %s is recorded without a score, as others may be: %s"
            log.warning(text, key_text(picture.key), why[:2000])
