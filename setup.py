"""Two layers: the base install reads, draws and measures; `[train]` adds what Detectron2 wants."""

from pathlib import Path

from setuptools import find_packages, setup

TRAIN = [
    "torch>=2.1",
    "torchvision>=0.16",
    "fvcore",
    "onnx",  # to export
    # Detectron2's model zoo imports pkg_resources, which later setuptools do not have.
    "setuptools<81",
]
# To write videos that browsers play, and to follow people: the library's own results, its tracker.
VIDEO = ["av>=14.2", "supervision>=0.31", "trackers>=2.6"]
# Swagger UI comes along, so that the API's page loads nothing from elsewhere.
SERVE = ["fastapi>=0.115", "uvicorn>=0.30", "websockets>=13", "python-multipart>=0.0.18",
         "swagger-ui-bundle>=1.1"]  # fmt: skip
TEST = ["pytest>=7", "onnx", *VIDEO, *SERVE, "httpx", "playwright"]

setup(
    name="detectron2_bodyparts",
    version="0.1.0",
    description="Body parts and skeletons of people, as a Detectron2 plugin",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["detectron2_bodyparts*"]), "detectron2_bodyparts.configs"],
    package_dir={"detectron2_bodyparts.configs": "configs"},
    package_data={
        "detectron2_bodyparts": ["models/*.onnx", "models/*.jpg", "models/*.md", "deploy/page/*"],
        "detectron2_bodyparts.configs": ["*.yaml", "*/*.yaml"],
    },
    install_requires=[
        "numpy",
        "packaging",
        "opencv-python",
        "pycocotools>=2.0.6",
        "scipy",
        "tqdm",
        # For exported models; Pillow resizes as Detectron2 does, which OpenCV does not.
        "onnxruntime>=1.12",
        "pillow",
    ],
    extras_require={
        "train": TRAIN,
        "video": VIDEO,
        "serve": SERVE,
        "test": TEST,
        "dev": [*TEST, "ruff"],
    },
    entry_points={"console_scripts": ["bodyparts = detectron2_bodyparts.cli:main"]},
)
