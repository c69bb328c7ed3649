"""People who keep their number from one picture to the next.

The tracker is ByteTrack (Zhang et al., 2022) of the ``trackers`` library, which the extra ``video``
installs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import supervision
from trackers import ByteTrackTracker

from .people import People

# The tracker's bound is a second. Between two pictures no more than this passes for it, so that a
# number lasts from one to the next, however slow a camera's model is.
LONGEST_STEP = 0.6


class PeopleTracker:
    """Follows the people of one video, telling them apart by how their boxes move.

    An id is given when somebody is seen for the second time, and kept while they are out of sight
    for a second at most, or from one picture to the next where they are further apart. Who is
    hidden by somebody else may come back under another id.
    """

    def __init__(self, rate: float) -> None:
        """
        Args:
            rate: pictures a second that it will be given, about; a camera's model may be slower.
        """
        self._tracker = ByteTrackTracker(frame_rate=rate)
        self._last = self._clock = 0.0

    def __call__(self, people: People, time: float) -> People:
        """The people of the next picture, in the same order, with ids.

        Args:
            people: all of them count, so leave out unsure ones before.
            time: of the picture, in seconds from whenever; later than the one before.
        """
        # Without scores, everybody is followed: the threshold has been applied.
        detections = supervision.Detections(people.boxes, data={"index": np.arange(len(people))})
        self._clock += min(time - self._last, LONGEST_STEP)
        self._last = time
        found = self._tracker.update(detections, timestamp=self._clock)
        ids = np.zeros(len(people), dtype=int)
        if len(people):
            ids[found.data["index"]] = found.tracker_id + 1
        return replace(people, ids=ids)
