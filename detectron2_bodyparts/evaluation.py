"""Detectron2's evaluator over the plugin's metrics."""

from __future__ import annotations

import itertools
import json
import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .metrics.coco_ap import evaluate_ap
from .metrics.sides import left_right_confusion
from .people import People
from .records import read_records
from .schema import KeypointSchema, PartSchema

logger = logging.getLogger(__name__)


class BodyPartsEvaluator(DatasetEvaluator):
    """Box, body, part and joint AP and left/right confusion of a registered dataset.

    Unknown channels, crowds and pictures that are not exhaustively labelled cost a model nothing.
    What is kept of a picture is run-length encoded. Results are Detectron2's nested dictionary:
    ``bbox``, ``body``, ``parts``, ``keypoints``, ``sides``, in percent.
    """

    def __init__(
        self,
        dataset_name: str,
        part_schema: PartSchema,
        keypoint_schema: KeypointSchema,
        output_dir: str | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a dataset of `register_bodyparts_dataset`.
            part_schema, keypoint_schema: the model's. Joints are matched by name to the dataset's.
            output_dir: where ``predictions.json`` is written, if given.

        Raises:
            ValueError: the dataset has another part schema than the model.
        """
        self._records = read_records(MetadataCatalog.get(dataset_name).json_file)
        if self._records.part_schema != part_schema:
            raise ValueError(
                f"the model's parts are {part_schema.name}, those of dataset {dataset_name!r} are"
                f" {self._records.part_schema.name}"
            )
        self._part_schema = part_schema
        self._keypoint_schema = keypoint_schema
        self._output_dir = output_dir
        self._predictions: list[dict] = []

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the predictions of some pictures. See `DatasetEvaluator.process`."""
        for picture, output in zip(inputs, outputs, strict=True):
            people = People.from_instances(
                output["instances"], self._part_schema, self._keypoint_schema
            )
            self._predictions += people.to_annotations(picture["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """The results on the main process; None on the others."""
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        predictions = list(itertools.chain.from_iterable(gathered))
        for prediction in predictions:
            if "keypoints" in prediction:
                points = np.array(prediction["keypoints"]).reshape(-1, 3)
                points = self._records.keypoint_schema.take(points, self._keypoint_schema)
                prediction["keypoints"] = points.ravel().tolist()
        if self._output_dir:
            path = Path(self._output_dir) / "predictions.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(predictions))
            logger.info("predictions written to %s", path)
        results = OrderedDict(evaluate_ap(self._records, predictions))
        results["sides"] = left_right_confusion(self._records, predictions)
        return results
