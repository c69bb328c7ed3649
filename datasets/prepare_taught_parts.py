#!/usr/bin/env python3
"""Pseudo-label parts of images that have none; teachers: a model of this plugin and BodyPix.

    python datasets/prepare_taught_parts.py --dataset lspet --bodypix model-stride16.json

reads lspet_train_derived (keypoints and strips along the bones) or clothing_co_parsing_train (body
masks), and writes lspet_train_taught or clothing_co_parsing_train_taught. Labels take precedence
over the teachers; pixels of which the teachers are not sure are ignored. Needs Detectron2.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.deploy.predictor import trainable_model
from detectron2_bodyparts.modeling.bodypix import PARTS, BodyPix, channel_of
from detectron2_bodyparts.modeling.tfjs import read_tfjs_weights
from detectron2_bodyparts.predictor import BodyPartsPredictor
from detectron2_bodyparts.readers import clothing_co_parsing, lsp, taught
from detectron2_bodyparts.readers.prepare import DERIVED, datasets_root, records_path
from detectron2_bodyparts.records import Records, read_records, write_records
from detectron2_bodyparts.schema import BODYPARTS_11

BODYPIX_WEIGHT = 0.3  # in the mean of both teachers, where ours has 1

# Dataset -> the split that is read.
SPLITS = {clothing_co_parsing.DATASET: "train", lsp.EXTENDED: "train" + DERIVED}


class Teachers:
    """The weighted mean of a model of this plugin and BodyPix, at every pixel."""

    def __init__(self, predictor: BodyPartsPredictor, bodypix: torch.nn.Module) -> None:
        """
        Args:
            predictor: of a model with a part segmentation, in bodyparts-11.
            bodypix: a `BodyPix`.
        """
        self.predictor, self.bodypix = predictor, bodypix

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) BGR uint8 -> (11, H, W) probabilities: background, bodyparts-11's parts."""
        both = self._ours(image) + BODYPIX_WEIGHT * self._bodypix(image)
        return (both / (1 + BODYPIX_WEIGHT)).numpy()

    @torch.no_grad()
    def _ours(self, image: np.ndarray) -> torch.Tensor:
        model = self.predictor.model
        given = self.predictor.model_input(image)
        height, width = given["image"].shape[1:]
        padded = model.preprocess_image([given]).tensor
        p = model.roi_heads.segment(model.backbone(padded))
        p = functional.interpolate(p, padded.shape[-2:], mode="bilinear")
        p = p[:, :, :height, :width]
        return functional.interpolate(p, image.shape[:2], mode="bilinear")[0].cpu()

    def _bodypix(self, image: np.ndarray) -> torch.Tensor:
        height, width = image.shape[:2]
        resized = cv2.resize(image, taught.bodypix_size(height, width))
        pixels = resized[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
        said = self.bodypix(torch.from_numpy(pixels[None]).float())
        maps = torch.cat([said["segments"], said["parts"]], dim=1)
        maps = functional.interpolate(maps, (height, width), mode="bilinear", align_corners=True)[0]
        somebody = maps[0].sigmoid()
        p = torch.zeros(len(BODYPARTS_11.channels), height, width)
        channels = torch.tensor([BODYPARTS_11.index(channel_of(part)) for part in PARTS])
        p.index_add_(0, channels, maps[1:].softmax(dim=0) * somebody)
        p[0] = 1 - somebody
        return p


def teach(dataset: str, root: Path, teachers: Teachers, weights: str) -> Records:
    """The records of the dataset's split, with the teachers' pseudo-labels.

    Args:
        dataset: one of ``SPLITS``.
        root: its folder.
        teachers: the teachers.
        weights: our teacher's file, whose hash goes into the records' ``info``.

    Raises:
        FileNotFoundError, RecordError: see `read_records` and the dataset's reader.
    """
    records = read_records(records_path(root, dataset, SPLITS[dataset], BODYPARTS_11))
    names = clothing_co_parsing.read_names(root) if dataset != lsp.EXTENDED else []
    groups = records.by_image()
    by = {"sha256": hashlib.sha256(Path(weights).read_bytes()).hexdigest(), "sure": taught.SURE}
    by |= {"bodypix_weight": BODYPIX_WEIGHT}
    info = {**records.info, "taught_by": by}
    result = Records(BODYPARTS_11, records.keypoint_schema, info=info)
    for image in tqdm(records.images, disable=None):
        (person,) = groups[image["id"]]
        said = taught.sum_of_sides(teachers(cv2.imread(str(root / image["file_name"]))))
        if dataset == lsp.EXTENDED:
            people = taught.teach_picture(person, said, records.keypoint_schema)
        else:
            path = clothing_co_parsing.labels_path(root, image["file_name"])
            garments = clothing_co_parsing.read_garments(path, len(names))
            possible = clothing_co_parsing.possible_parts(garments, names)
            people = taught.teach_person(person, said, possible, records.keypoint_schema)
        result.add_image(image["file_name"], image["height"], image["width"], people)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, choices=SPLITS)
    parser.add_argument("--schema", choices=(BODYPARTS_11.name,), help="the only one")
    parser.add_argument("--bodypix", required=True, help="BodyPix's model-stride16.json")
    parser.add_argument("--root", type=Path, help="the dataset's folder, if not the usual one")
    parser.add_argument(
        "--config-file", default="bodyparts_rcnn_mobilenet_v1_075_FPN.yaml", help="of our teacher"
    )
    parser.add_argument(
        "--weights",
        default=str(trainable_model()),
        help="of our teacher (default: the shipped model)",
    )
    parser.add_argument("--device", default="cpu", help="of our teacher (default: %(default)s)")
    args = parser.parse_args()
    root = args.root or datasets_root() / args.dataset
    cfg = load_config(args.config_file, args.weights, ["MODEL.DEVICE", args.device])
    teachers = Teachers(BodyPartsPredictor(cfg), BodyPix(read_tfjs_weights(args.bodypix)))
    records = teach(args.dataset, root, teachers, args.weights)
    write_records(records_path(root, args.dataset, "train_taught", BODYPARTS_11), records)


if __name__ == "__main__":
    main()
