"""Each fault that `bodyparts doctor` knows, made with modules and packages that are not real."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict
from email.message import Message
from importlib import metadata

import pytest

from detectron2_bodyparts import deploy
from detectron2_bodyparts.cli import main
from detectron2_bodyparts.commands import doctor
from detectron2_bodyparts.commands.doctor import Finding

GOOD = {
    "torch/__init__.py": """
import os
os.write(1, b"a library's own line\\n")
print("another one")
__version__ = "9.9"
from_numpy = zeros = lambda *_, **__: None
class cuda:
    is_available = lambda: True
    get_device_name = lambda: "Some GPU"
""",
    "torchvision/__init__.py": """
__version__ = "9.8"
class ops:
    nms = lambda *_: None
""",
    "detectron2/__init__.py": "__version__ = '9.7'",
    "detectron2/modeling.py": "",
    "detectron2/_C.py": "get_compiler_version = lambda: 'a compiler'",
    "pkg_resources.py": "",
}


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Callable[[dict[str, str]], None]:
    """Makes modules that a process of its own finds before the real ones."""
    folder = tmp_path / "fakes"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    return write


@pytest.fixture
def there(monkeypatch) -> set[str]:
    """The modules that are found."""
    modules = {"torch", "torchvision", "detectron2"}
    monkeypatch.setattr(doctor, "is_there", modules.__contains__)
    return modules


def by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


# ------------------------------------------------------------ torch and Detectron2


def test_a_good_detectron2(fake, there):
    fake(GOOD)
    findings = list(doctor.check_training())
    assert {finding.state for finding in findings} == {"ok"}
    assert not any(finding.advice for finding in findings)
    assert [finding.found for finding in findings] == [
        *("9.9", "Some GPU", "9.8", "9.7", "built with a compiler", "there")
    ]


FAULTS = {
    "numpy": (
        {"torch/__init__.py": GOOD["torch/__init__.py"] + "from_numpy = None"},
        "torch with numpy",
        "TypeError: 'NoneType' object is not callable",
        "pytorch.org",
    ),
    "pair": (
        {"torchvision/__init__.py": "raise RuntimeError('first line\\nno operator nms')"},
        "torchvision with torch",
        "RuntimeError: no operator nms",
        "torch and torchvision together",
    ),
    "broken": (
        {"detectron2/modeling.py": "import detectron2.nothing"},
        "Detectron2",
        "ModuleNotFoundError: No module named 'detectron2.nothing'",
        "--no-build-isolation --no-deps",
    ),
    "another torch": (
        {"detectron2/_C.py": "raise ImportError('undefined symbol: _ZN2at')"},
        "Detectron2 with torch",
        "ImportError: undefined symbol: _ZN2at",
        "--force-reinstall",
    ),
    "crash": (
        {"detectron2/_C.py": "import os; os._exit(139)"},
        "Detectron2 with torch",
        "it ended Python with code 139",
        "--force-reinstall",
    ),
    "exit": (
        {"detectron2/modeling.py": "raise SystemExit"},
        "Detectron2",
        "SystemExit: ",
        "--no-build-isolation",
    ),
    "setuptools": (
        {"pkg_resources.py": "raise ModuleNotFoundError('No pkg_resources')"},
        "pkg_resources",
        "ModuleNotFoundError: No pkg_resources",
        "pip install 'setuptools<81'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_found_and_hides_no_other_check(fake, there, name):
    files, check, found, advice = FAULTS[name]
    fake({**GOOD, **files})
    findings = by_check(doctor.check_training())
    assert len(findings) == 6
    broken = findings.pop(check)
    assert (broken.state, broken.found) == ("fault", found)
    assert advice in broken.advice
    assert all(finding.state == "ok" for finding in findings.values())


def test_without_detectron2_nothing_is_at_fault(fake, there):
    there.clear()
    (finding,) = doctor.check_training()
    assert finding.check == "Detectron2" and finding.state == "missing"
    assert "pip install -e '.[train]'" in finding.advice
    assert "--no-build-isolation 'git+https://github.com/" in finding.advice
    # A torch that is there is looked at all the same.
    there.update({"torch", "torchvision"})
    fake({**GOOD, **FAULTS["pair"][0]})
    findings = by_check(doctor.check_training())
    assert findings["torchvision with torch"].state == "fault"
    assert findings["Detectron2"].state == "missing" and len(findings) == 4


def test_detectron2_without_torch_is_a_fault(fake, there):
    fake({**GOOD, "torch/__init__.py": "raise ModuleNotFoundError('No torch')"})
    there -= {"torch", "torchvision"}
    findings = by_check(doctor.check_training())
    assert findings["torch with numpy"].state == findings["GPU"].state == "fault"


@pytest.mark.parametrize("driver", [None, "/usr/bin/nvidia-smi"])
def test_a_torch_without_gpu_is_mentioned_where_there_is_a_driver(fake, there, monkeypatch, driver):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: driver)
    torch = GOOD["torch/__init__.py"].replace("True", "False")
    fake({**GOOD, "torch/__init__.py": torch})
    gpu = by_check(doctor.check_training())["GPU"]
    assert gpu.found.startswith("CPU only")
    assert gpu.state == ("missing" if driver else "ok")
    assert ("pytorch.org" in gpu.advice) == bool(driver)


def test_a_check_that_never_ends_is_given_up(monkeypatch):
    answers = [b'\nanswer [true, "first"]\n', b'noise\n\nanswer [true, "third"]\n']

    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout, output=answers.pop(0))

    monkeypatch.setattr(doctor.subprocess, "run", run)
    probes = [doctor.Probe(str(i), "", f"advice {i}") for i in (1, 2, 3)]
    first, second, third = doctor.probe(probes)
    assert (first.found, third.found) == ("first", "third")
    assert second.state == "fault" and second.advice == "advice 2" and "no answer" in second.found


# ------------------------------------------------------------ the base install


def test_the_libraries_of_this_installation_work():
    findings = list(doctor.probe(doctor.BASE_PROBES))
    assert [(f.check, f.state) for f in findings] == [(p.check, "ok") for p in doctor.BASE_PROBES]
    assert "CPUExecutionProvider" in findings[-1].found


def test_videos_can_be_written():
    pytest.importorskip("av", reason="PyAV is not installed")
    (finding,) = doctor.probe([doctor.VIDEO_PROBE])
    assert finding.state == "ok", finding


@pytest.mark.parametrize(
    "file, text, check, found",
    [
        ("cv2.py", "raise ImportError('libGL.so.1')", "OpenCV", "libGL.so.1"),
        ("onnxruntime.py", "raise ImportError('DLL')", "ONNX Runtime", "DLL"),
        (
            "pycocotools/mask.py",
            "raise ValueError('numpy.dtype size changed')",
            "pycocotools with numpy",
            "numpy.dtype size changed",
        ),
    ],
)
def test_a_broken_library_is_named(fake, file, text, check, found):
    fake({"pycocotools/__init__.py": "", "pycocotools/cocoeval.py": "", file: text})
    broken = by_check(doctor.probe(doctor.BASE_PROBES))[check]
    assert broken.state == "fault" and broken.found.endswith(found)
    assert broken.advice.startswith("pip install --force-reinstall ")


class FakeMetadata:
    """What `importlib.metadata` says of a package and of what is installed."""

    PackageNotFoundError = metadata.PackageNotFoundError
    requirements = (
        "numpy",
        "opencv-python",
        "pycocotools>=2.0.6",
        "onnx>=1; extra == 'train'",
        "setuptools<81; extra == 'train'",
        "fastapi; extra == 'serve'",
        "pytest; extra == 'test'",
        "never; python_version < '3'",
    )

    def __init__(self, **versions: str) -> None:
        self.versions = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def metadata(self, name: str) -> Message:
        message = Message()
        for extra in ("train", "serve", "test", "dev"):
            message["Provides-Extra"] = extra
        return message

    def requires(self, name: str) -> list[str]:
        return list(self.requirements)


def packages(monkeypatch, **versions: str) -> dict[str, Finding]:
    monkeypatch.setattr(doctor, "metadata", FakeMetadata(**versions))
    return by_check(doctor.check_packages())


def test_packages_that_are_all_there(monkeypatch):
    base = dict(numpy="2.4", opencv_python="5.0", pycocotools="2.0.11")
    findings = packages(monkeypatch, **base, onnx="1.2", setuptools="80.1", fastapi="0.1")
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert list(findings) == [
        "detectron2_bodyparts",
        *("numpy", "opencv-python", "pycocotools", "extra [train]", "extra [serve]"),
    ]
    assert findings["numpy"].found == "2.4"
    assert findings["extra [train]"].found == "onnx 1.2, setuptools 80.1"


def test_packages_that_are_missing_or_of_another_version(monkeypatch):
    findings = packages(monkeypatch, numpy="2.4", pycocotools="2.0.5", setuptools="82")
    opencv, pycocotools = findings["opencv-python"], findings["pycocotools"]
    assert (opencv.state, opencv.advice) == ("fault", "pip install 'opencv-python'")
    assert (pycocotools.state, pycocotools.found) == ("fault", "2.0.5 (expected >=2.0.6)")
    assert pycocotools.advice == "pip install 'pycocotools>=2.0.6'"
    # Extras are nobody's duty.
    train, serve = findings["extra [train]"], findings["extra [serve]"]
    assert train.state == serve.state == "missing"
    assert train.found == "onnx (not installed), setuptools 82 (expected <81)"
    assert serve.advice.startswith("pip install -e '.[serve]'")


def test_the_same_modules_from_another_package_will_do(monkeypatch):
    findings = packages(monkeypatch, numpy="2.4", opencv_python_headless="4.9", pycocotools="2.1")
    assert (findings["opencv-python"].state, findings["opencv-python"].found) == ("ok", "4.9")


def test_versions_of_before_a_release_and_of_a_build_count(monkeypatch):
    base = dict(numpy="2.5.0.dev1", opencv_python="5", pycocotools="2.0.6+cpu")
    findings = packages(monkeypatch, **base)
    assert {findings[name].state for name in ("numpy", "pycocotools")} == {"ok"}


def test_running_without_being_installed_is_no_fault(monkeypatch):
    def missing(name: str) -> Message:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "metadata", missing)
    (finding,) = doctor.check_packages()
    assert finding.state == "missing" and finding.advice.startswith("pip install -e .")


# ------------------------------------------------------------ model and datasets


def test_the_shipped_model_finds_people():
    finding = doctor.check_model()
    assert finding.state == "ok", finding
    assert "bodyparts_int8.onnx finds 1 people" in finding.found and not finding.advice


def test_a_shipped_model_that_is_missing_or_damaged(monkeypatch, tmp_path):
    path = tmp_path / "bodyparts.onnx"
    monkeypatch.setattr(deploy, "default_model", lambda: path)
    missing = doctor.check_model()
    path.write_text("version https://git-lfs.github.com/spec/v1")
    damaged = doctor.check_model()
    for finding in (missing, damaged):
        assert finding.state == "fault" and str(path) in finding.found
        assert "models/" in finding.advice


def test_a_shipped_model_that_finds_nobody(monkeypatch):
    monkeypatch.setattr(deploy, "OnnxPredictor", lambda *_, **__: lambda image: [])
    finding = doctor.check_model()
    assert finding.state == "fault" and "finds 0 people" in finding.found


def test_datasets_are_known_by_their_files(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    finding = doctor.check_datasets()
    assert finding.state == "missing" and str(tmp_path) in finding.found
    assert "prepare_synthetic.py" in finding.advice
    for name in (
        "synthetic/synthetic_val.bodyparts-7.json",
        "voc_part/voc_part_train.pascal-person-part.json",
        "coco/instances_val2017.json",
        "synthetic/synthetic_val.bodyparts-7.json.shards/0.json",
        "synthetic_train.bodyparts-7.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    finding = doctor.check_datasets()
    names = "synthetic_val.bodyparts-7, voc_part_train.pascal-person-part"
    assert (finding.state, finding.found) == ("ok", f"{names} in {tmp_path}")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic").rename(tmp_path / "moved")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "moved").rename(tmp_path / "datasets" / "synthetic")
    assert doctor.check_datasets().found.startswith("synthetic_val.bodyparts-7 in ")


# ------------------------------------------------------------ the command

OK = Finding("a", "ok", "1.0")
MISSING = Finding("b", "missing", "none", "get it")
FAULT = Finding("c", "fault", "broken", "mend it")


@pytest.mark.parametrize("findings, code", [([OK, MISSING], 0), ([OK, FAULT, OK], 1)])
def test_the_exit_code_tells_of_faults_only(monkeypatch, capsys, findings, code):
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    assert main(["doctor"]) == code
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "ok       a: 1.0"
    assert printed[2].strip() == f"-> {findings[1].advice}"
    assert main(["doctor", "--json"]) == code
    content = json.loads(capsys.readouterr().out)
    assert content == [asdict(finding) for finding in findings]


def test_everything_is_looked_at(monkeypatch, there):
    there.clear()
    there.add("av")
    monkeypatch.setattr(doctor, "metadata", FakeMetadata())
    monkeypatch.setattr(doctor, "BASE_PROBES", [doctor.Probe("libraries", "print('work')", "")])
    monkeypatch.setattr(doctor, "VIDEO_PROBE", doctor.Probe("videos", "print('work')", ""))
    checks = {"Python", "numpy", "libraries", "videos", "shipped model", "Detectron2", "datasets"}
    assert checks < set(by_check(doctor.examine()))
