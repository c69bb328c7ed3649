"""Check the installation, and say how to fix each fault. Start with the first one.

One line per check: ok, missing (but optional) or fault. Exit code 1 if there is a fault. --json is
for bug reports.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from .. import __version__
from ..schema import BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART

# A broken library must not end this command: libraries are imported in a separate process, and our
# modules that need them inside functions.

PACKAGE = "detectron2_bodyparts"
DEVELOPERS_EXTRAS = ("test", "dev")
# Distributions that provide the same modules.
ALTERNATIVES = {
    "opencv-python": (
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
}
DETECTRON2 = "'git+https://github.com/facebookresearch/detectron2.git'"
INSTALL_DETECTRON2 = f"pip install --no-build-isolation {DETECTRON2}"
REBUILD_DETECTRON2 = (
    f"pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall {DETECTRON2}"
)
TORCH_GUIDE = "https://pytorch.org/get-started/locally/"
# Shipped with the model: an image of one person, on which it was not trained.
SELF_TEST = Path(__file__).parents[1] / "models" / "astronaut.jpg"
SCHEMAS = (BODYPARTS_7.name, BODYPARTS_11.name, PASCAL_PERSON_PART.name)

State = Literal["ok", "missing", "fault"]


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``str()`` gives its lines.

    Args:
        check: the check's name.
        state: "missing" is not a fault: the item is optional.
        found: a version, a name, or the last line of an error.
        advice: what to do; empty if nothing is needed.
    """

    check: str
    state: State
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<8} {self.check}: {self.found}"
        return f"{line}\n{'':<8} -> {self.advice}" if self.advice else line


class Probe(NamedTuple):
    """A check of other libraries.

    Args:
        check: the check's name.
        code: prints its result, and raises if something is wrong. It should call the library, as
            one built against another version of a dependency may still import without errors.
        advice: what to do if it raises.
    """

    check: str
    code: str
    advice: str


BASE_PROBES = (
    Probe(
        "pycocotools with numpy",
        """
import numpy, pycocotools.cocoeval, pycocotools.mask
square = numpy.ones((2, 2), numpy.uint8, order="F")
assert pycocotools.mask.area(pycocotools.mask.encode(square)) == 4, "wrong area"
pycocotools.cocoeval.Params("keypoints")
print("numpy", numpy.__version__)
""",
        "pip install --force-reinstall --no-cache-dir pycocotools",
    ),
    Probe(
        "OpenCV",
        """
import cv2, numpy
data = cv2.imencode(".jpg", numpy.zeros((8, 8, 3), numpy.uint8))[1]
assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (8, 8, 3), "no JPEG"
print(cv2.__version__)
""",
        "pip install --force-reinstall opencv-python-headless (which needs no screen's libraries)",
    ),
    Probe(
        "ONNX Runtime",
        """
import onnxruntime
print(", ".join(onnxruntime.get_available_providers()))
""",
        "pip install --force-reinstall onnxruntime",
    ),
)

VIDEO_PROBE = Probe(
    "videos",
    """
import os, tempfile
import av, cv2, numpy
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "video.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height = stream.width = 32
        black = numpy.zeros((32, 32, 3), numpy.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="bgr24")))
        container.mux(stream.encode())
    capture = cv2.VideoCapture(path)
    assert capture.read()[0], "OpenCV cannot read H.264"
    capture.release()
print("H.264 is written and read")
""",
    "pip install --force-reinstall av opencv-python",
)

TORCH_PROBE = Probe(
    "torch with numpy",
    """
import numpy, torch
torch.from_numpy(numpy.zeros(1))
print(torch.__version__)
""",
    f"install torch and torchvision as {TORCH_GUIDE} says; then: {REBUILD_DETECTRON2}",
)
TORCHVISION_PROBE = Probe(
    "torchvision with torch",
    """
import torch, torchvision
on = "cuda" if torch.cuda.is_available() else "cpu"
torchvision.ops.nms(torch.zeros(1, 4, device=on), torch.zeros(1, device=on), 0.5)
print(torchvision.__version__)
""",
    f"install torch and torchvision together, as {TORCH_GUIDE} says; then: {REBUILD_DETECTRON2}",
)
CPU_ONLY = "CPU only"
GPU_PROBE = Probe(
    "GPU",
    f"""
import torch
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "{CPU_ONLY}")
""",
    f"install a torch for this machine's driver: {TORCH_GUIDE}; then: {REBUILD_DETECTRON2}",
)
DETECTRON2_PROBES = (
    Probe(
        "Detectron2",
        """
import detectron2, detectron2.modeling
print(detectron2.__version__)
""",
        REBUILD_DETECTRON2,
    ),
    Probe(
        "Detectron2 with torch",
        """
import torch
from detectron2 import _C
print("built with", _C.get_compiler_version())
""",
        f"it must be built again after another torch is installed: {REBUILD_DETECTRON2}",
    ),
    Probe(
        "pkg_resources",  # imported by Detectron2's model zoo
        """
import pkg_resources
print("there")
""",
        "pip install 'setuptools<81'",
    ),
)

# The probes share a process, because importing torch takes seconds. Raising SystemExit is a failure
# as well. Only the last line of output and of errors is kept, because libraries print, too.
_RUNNER = """
import contextlib, io, json, sys, warnings
warnings.simplefilter("ignore")
def last_line(text):
    return (text.strip().splitlines() or [""])[-1]
for code in json.loads(sys.argv[1]):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        answer = True, last_line(printed.getvalue())
    except BaseException as e:
        answer = False, f"{type(e).__name__}: {last_line(str(e))}"
    print("\\nanswer", json.dumps(answer), flush=True)
"""
PROBE_SECONDS = 300  # the first import of torch from a slow disk takes long


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")


def run(args: argparse.Namespace) -> int:
    """Print the results of all checks. Returns the exit code: 1 if there is a fault."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not args.json:
            print(finding, flush=True)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    return int(any(finding.state == "fault" for finding in findings))


def examine() -> Iterator[Finding]:
    """Yield the results of all checks."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from check_packages()
    yield from probe(BASE_PROBES)
    if is_there("av"):
        yield from probe([VIDEO_PROBE])
    yield check_model()
    yield from check_training()
    yield check_datasets()


def check_packages() -> Iterator[Finding]:
    """Check this package, its requirements, and those of each extra."""
    try:
        installed = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        found = f"{__version__}, not installed; the versions of what it requires are not checked"
        yield Finding(PACKAGE, "missing", found, "pip install -e . (in its folder)")
        return
    yield Finding(PACKAGE, "ok", __version__)
    requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    base = [r for r in requirements if wants(r, "")]
    for requirement in base:
        found, is_met = look_up(requirement)
        advice = "" if is_met else f"pip install '{requirement.name}{requirement.specifier}'"
        yield Finding(requirement.name, "ok" if is_met else "fault", found, advice)
    for extra in installed.get_all("Provides-Extra") or ():
        if extra in DEVELOPERS_EXTRAS:
            continue
        looked_up = {r.name: look_up(r) for r in requirements if wants(r, extra) and r not in base}
        lacking = [f"{name} {found}" for name, (found, is_met) in looked_up.items() if not is_met]
        if lacking:
            advice = f"pip install -e '.[{extra}]' (in its folder)"
            yield Finding(f"extra [{extra}]", "missing", ", ".join(lacking), advice)
        else:
            versions = ", ".join(f"{name} {found}" for name, (found, _) in looked_up.items())
            yield Finding(f"extra [{extra}]", "ok", versions)


def wants(requirement: Requirement, extra: str) -> bool:
    """Whether the requirement applies with the given extra ("" = no extra)."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def look_up(requirement: Requirement) -> tuple[str, bool]:
    """The installed version, or what is wrong with it, and whether it meets the requirement."""
    for name in (requirement.name, *ALTERNATIVES.get(requirement.name, ())):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if requirement.specifier.contains(version, prereleases=True):
            return version, True
        return f"{version} (expected {requirement.specifier})", False
    return "(not installed)", False


def check_model() -> Finding:
    """Check that the shipped model detects the one person in its test image."""
    check = "shipped model"
    advice = "get the package again: its folder models/ is not as it should be"
    try:
        import cv2

        from ..deploy import OnnxPredictor, default_model

        predictor = OnnxPredictor(default_model(), threshold=0.5)
        found = len(predictor(cv2.imread(str(SELF_TEST))))
    except Exception as e:  # whatever it is, the other checks must still run
        return Finding(check, "fault", f"{type(e).__name__}: {e}", advice)
    words = f"{default_model().name} finds {found} people in {SELF_TEST.name}, which shows one"
    return Finding(check, "ok", words) if found == 1 else Finding(check, "fault", words, advice)


def check_training() -> Iterator[Finding]:
    """Check torch and Detectron2, which only training, exporting and ``--config-file`` need."""
    has_detectron2 = is_there("detectron2")
    probes = []
    if has_detectron2 or is_there("torch"):
        probes += [TORCH_PROBE, GPU_PROBE]
    if has_detectron2 or is_there("torchvision"):
        probes.append(TORCHVISION_PROBE)
    if has_detectron2:
        probes.extend(DETECTRON2_PROBES)
    for finding in probe(probes):
        if finding.found == CPU_ONLY and shutil.which("nvidia-smi"):
            words = f"{CPU_ONLY}, though there is an NVIDIA driver"
            finding = replace(finding, state="missing", found=words, advice=GPU_PROBE.advice)
        yield finding
    if not has_detectron2:
        advice = f"pip install -e '.[train]' (in its folder), then: {INSTALL_DETECTRON2}"
        found = "not installed; only training and --config-file need it"
        yield Finding("Detectron2", "missing", found, advice)


def check_datasets() -> Finding:
    """List the annotation files in the datasets' folder, recognized by name."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser().absolute()
    files = (p.stem for p in root.glob("*/*.json") if Path(p.stem).suffix[1:] in SCHEMAS)
    names = ", ".join(sorted(files))
    if names:
        return Finding("datasets", "ok", f"{names} in {root}")
    advice = (
        "export DETECTRON2_DATASETS=<folder>, or make one: python datasets/prepare_synthetic.py"
    )
    return Finding("datasets", "missing", f"none in {root}", advice)


def is_there(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def probe(probes: Sequence[Probe]) -> Iterator[Finding]:
    """Run the probes in a separate process, which they may crash, and yield their results."""
    if not probes:
        return
    command = [sys.executable, "-c", _RUNNER, json.dumps([one.code for one in probes])]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
        printed, end = process.stdout, f"it ended Python with code {process.returncode}"
    except subprocess.TimeoutExpired as e:
        printed, end = (e.stdout or b"").decode(), f"no answer after {PROBE_SECONDS} s"
    lines = [line for line in printed.splitlines() if line.startswith("answer ")]
    for one, line in zip(probes, lines, strict=False):
        is_well, found = json.loads(line.removeprefix("answer "))
        if is_well:
            yield Finding(one.check, "ok", found)
        else:
            yield Finding(one.check, "fault", found, one.advice)
    if len(lines) < len(probes):
        broken, *rest = probes[len(lines) :]
        yield Finding(broken.check, "fault", end, broken.advice)
        yield from probe(rest)
