"""Track people through a video.

The tracker is ByteTrack (Zhang et al., 2022) from the ``trackers`` library, which the extra
``video`` installs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import supervision
from trackers import ByteTrackTracker

from .people import People

# The tracker drops tracks after a second. Its clock advances by at most this between two frames, so
# that IDs last from one frame to the next, however slowly the model runs on a camera.
LONGEST_STEP = 0.6


class PeopleTracker:
    """Tracks the people of one video by the motion of their boxes.

    A track ID is assigned when a person is detected for the second time. It is kept while they are
    out of sight for at most a second, or from one frame to the next if frames are further apart. A
    person who was occluded may come back under another ID.
    """

    def __init__(self, rate: float) -> None:
        """
        Args:
            rate: approximate frames per second of the input; on a camera the model may be slower.
        """
        self._tracker = ByteTrackTracker(frame_rate=rate)
        self._last = self._clock = 0.0

    def __call__(self, people: People, time: float) -> People:
        """Assign track IDs to the people of the next frame; their order is kept.

        Args:
            people: all are tracked, so filter by score first.
            time: of the frame, in seconds from any origin; later than the last one's.
        """
        # Without scores, everybody is tracked: the threshold has been applied.
        detections = supervision.Detections(people.boxes, data={"index": np.arange(len(people))})
        self._clock += min(time - self._last, LONGEST_STEP)
        self._last = time
        found = self._tracker.update(detections, timestamp=self._clock)
        ids = np.zeros(len(people), dtype=int)
        if len(people):
            ids[found.data["index"]] = found.tracker_id + 1
        return replace(people, ids=ids)
