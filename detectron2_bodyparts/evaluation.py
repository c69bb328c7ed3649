"""The plugin's metrics as a Detectron2 evaluator."""

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
    """All metrics of `detectron2_bodyparts.metrics` on a registered dataset.

    Predictions in unknown channels, in crowds and of unlabelled people in images that are not
    exhaustively labelled are not penalized. Predictions are kept run-length encoded; the results do
    not depend on the number of processes. They are Detectron2's nested dict, in percent: those of
    `metrics.evaluate`, and the original system's ``precision`` (`metrics.precision`).
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
            dataset_name: a dataset registered with `register_bodyparts_dataset` or otherwise; on a
                COCO dataset, people's boxes, bodies and keypoints are evaluated.
            part_schema, keypoint_schema: the model's. Keypoints are matched to the dataset's by
                name; parts are converted to the dataset's schema (`People.view`).
            output_dir: folder for ``predictions.json``, if given.
            paint_threshold: minimum score of people painted into the label map for mIoU.

        Raises:
            ValueError: the dataset's part schema is not a view of the model's, or see
                `registered_records`.
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
        """Store the predictions on some images. See `DatasetEvaluator.process`."""
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
