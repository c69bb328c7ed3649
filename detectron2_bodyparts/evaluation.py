"""Detectron2's evaluator over the plugin's metrics."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from pathlib import Path

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .data.registered import registered_records
from .metrics import evaluate
from .metrics.instances import true_picture
from .metrics.parsing import CIHP_PAINT_THRESHOLD
from .metrics.precision import OriginalPrecision, found_channels
from .people import People
from .schema import KeypointSchema, PartSchema

logger = logging.getLogger(__name__)


class BodyPartsEvaluator(DatasetEvaluator):
    """Every metric of `detectron2_bodyparts.metrics` on a registered dataset.

    Unknown channels, crowds and pictures that are not exhaustively labelled cost a model nothing.
    What is kept of a picture is run-length encoded; several processes give the figures of one.
    Results are Detectron2's nested dictionary, in percent: what `metrics.evaluate` gives, and
    ``precision``, the original system's (`metrics.precision`).
    """

    def __init__(
        self,
        dataset_name: str,
        part_schema: PartSchema,
        keypoint_schema: KeypointSchema,
        output_dir: str | None = None,
        *,
        paint_threshold: float = CIHP_PAINT_THRESHOLD,
    ) -> None:
        """
        Args:
            dataset_name: of `register_bodyparts_dataset`, or any other that is registered: of a
                COCO dataset people's boxes, bodies and joints are looked at.
            part_schema, keypoint_schema: the model's. Joints are matched by name to the dataset's;
                parts are looked at as the dataset has them (`People.view`).
            output_dir: where ``predictions.json`` is written, if given.
            paint_threshold: people under this score are not painted for mIoU.

        Raises:
            ValueError: the dataset's part schema is no view of the model's, or it is of several
                classes and has none of people.
        """
        self._records = registered_records(dataset_name, part_schema)
        if not self._records.part_schema.is_view_of(part_schema):
            raise ValueError(
                f"the model's parts are {part_schema.name}, those of dataset {dataset_name!r} are"
                f" {self._records.part_schema.name}, which is no view of them"
            )
        self._part_schema = part_schema
        self._keypoint_schema = keypoint_schema
        self._output_dir = output_dir
        self._paint_threshold = paint_threshold
        groups = self._records.by_image()
        self._truths = {i["id"]: (i, groups[i["id"]]) for i in self._records.images}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[dict] = []
        self._precision = OriginalPrecision()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the predictions of some pictures. See `DatasetEvaluator.process`."""
        for picture, output in zip(inputs, outputs, strict=True):
            people = People.from_instances(
                output["instances"], self._part_schema, self._keypoint_schema
            ).view(self._records.part_schema)
            image_id = picture["image_id"]
            self._predictions += people.to_annotations(image_id, self._records.keypoint_schema)
            if people.part_probs is not None:
                truth = true_picture(*self._truths[image_id], self._records.part_schema)
                self._precision.add(truth, [found_channels(person) for person in people])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """The results on the main process; None on the others."""
        gathered = comm.gather((self._predictions, self._precision), dst=0)
        if not comm.is_main_process():
            return None
        predictions, precision = [], OriginalPrecision()
        for some, counted in gathered:
            predictions += some
            precision.merge(counted)
        if self._output_dir:
            path = Path(self._output_dir) / "predictions.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(predictions))
            logger.info("predictions written to %s", path)
        results = OrderedDict(
            evaluate(
                self._records,
                predictions,
                paint_threshold=self._paint_threshold,
                joints=self._keypoint_schema.keypoints,
            )
        )
        results["precision"] = precision.result()
        return results
