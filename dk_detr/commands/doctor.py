"""The doctor: what is installed, found and used here, and for each thing that is not, the command that mends it.

It must work where `import dk_detr` does not, so at the top it imports the standard library only, and `tools/doctor.py`
loads it by its path. A state is "ok"; "missing": not there, and only some uses need it; "fault": essential and broken.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "fault"]
INSTALL = "make clean venv"


@dataclass(frozen=True)
class Finding:
    """One line of the report: the state of one thing, what was seen, and the command that mends it if it is not ok."""

    section: str
    what: str
    state: State
    seen: str
    mend: str = ""


def examine() -> list[Finding]:
    """All findings, section by section. Never raises: what breaks while it is looked at is a fault."""
    return [finding for check in CHECKS for finding in _guarded(check)]


def is_healthy(findings: list[Finding]) -> bool:
    """Whether nothing essential is broken."""
    return all(finding.state != "fault" for finding in findings)


def report(findings: list[Finding]) -> str:
    """The findings as text: a table a section, remedies below their lines, the verdict last."""
    width = max(len(finding.what) for finding in findings)
    lines, section = [], ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines += ["", section]
        lines.append(f"  {finding.state:<7}  {finding.what:<{width}}  {finding.seen}".rstrip())
        if finding.mend:
            lines.append(f"           -> {finding.mend}")
    faults = sum(finding.state == "fault" for finding in findings)
    verdict = f"Essential and broken: {faults}; see the lines below them." if faults else "Nothing essential is broken."
    return "\n".join([*lines[1:], "", verdict])


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001  a doctor who faints helps nobody
        name = check.__name__.removeprefix("check_")
        return [Finding("Checks that broke off", name, "fault", f"{type(error).__name__}: {error}", INSTALL)]


# ---- Python and its packages ----

PACKAGES = "Python and packages"
ESSENTIAL = (
    "torch", "torchvision", "numpy", "scipy", "pillow", "pycocotools", "lvis", "open_clip_torch", "safetensors",
)  # fmt: skip
OPENAI_CLIP = "pip install --no-build-isolation git+https://github.com/openai/CLIP"


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    new_enough = sys.version_info >= (3, 11)
    mend = "" if new_enough else "make clean venv PYTHON=python3.11"
    yield Finding(PACKAGES, "python", "ok" if new_enough else "fault", f"{version}  {sys.executable}", mend)


def check_packages() -> Iterator[Finding]:
    """The packages that everything needs, and OpenAI's `clip`, which only MODEL.CLIP.LIBRARY "clip" needs."""
    for package in ESSENTIAL:
        version = _version(package)
        mend = "" if version else f"{INSTALL}   (or: pip install {package})"
        yield Finding(PACKAGES, package, "ok" if version else "fault", version or "not installed", mend)
    version = _version("clip")
    seen = version or 'not installed; only MODEL.CLIP.LIBRARY "clip" needs it'
    yield Finding(PACKAGES, "clip", "ok" if version else "missing", seen, "" if version else OPENAI_CLIP)


def check_project() -> Iterator[Finding]:
    """Whether `import dk_detr` works, and with which Detectron2; the import itself says what is amiss."""
    try:
        importlib.import_module("dk_detr")
    except Exception as error:  # noqa: BLE001  whatever it is, it is what the user came to hear
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        unknown = isinstance(error, ModuleNotFoundError) and error.name == "dk_detr"
        mend = "pip install --no-deps --no-build-isolation --editable ." if unknown else INSTALL
        yield Finding(PACKAGES, "dk_detr", "fault", first_line, mend)
        return
    detectron2, compat = importlib.import_module("detectron2"), importlib.import_module("dk_detr.compat")
    yield Finding(PACKAGES, "detectron2", "ok", f"{detectron2.__version__}, {compat.detectron2_build()}")
    yield Finding(PACKAGES, "dk_detr", "ok", os.path.dirname(str(compat.__file__)))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---- what computes ----

COMPUTING = "Computing"


def check_gpu() -> Iterator[Finding]:
    """The GPU, if torch sees one."""
    import torch

    cuda = f"torch built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch built without CUDA"
    if not torch.cuda.is_available():
        yield Finding(COMPUTING, "GPU", "missing", f"none seen ({cuda}); everything runs on the CPU", "nvidia-smi")
        return
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding(COMPUTING, "GPU", "ok", f"{len(names)} x {names[0]} ({cuda})")


def check_compilers() -> Iterator[Finding]:
    """Compilers: the C++ one makes deformable attention fast on a CPU, and Detectron2's own operators need both."""
    for what, command, mend in (
        ("C++ compiler", os.environ.get("CXX", "c++"), "apt-get install g++"),
        ("CUDA compiler", "nvcc", "install the CUDA toolkit of torch's CUDA version"),
    ):
        path = shutil.which(command)
        seen = f"{path}  {_self_description(path, '--version')}" if path else "none; everything works without"
        yield Finding(COMPUTING, what, "ok" if path else "missing", seen, "" if path else mend)


def check_attention() -> Iterator[Finding]:
    """Which backend computes deformable attention; the reference is right, but slow."""
    torch, ops = importlib.import_module("torch"), importlib.import_module("dk_detr.layers.ops")
    device, mend = ("cuda", "pip install triton") if torch.cuda.is_available() else ("cpu", "apt-get install g++")
    name = ops.default_backend(device)
    seen = f"{name} on {device}  (available: {', '.join(ops.available_backends(device))})"
    slow = name == "reference"
    yield Finding(COMPUTING, "deformable attention", "missing" if slow else "ok", seen, mend if slow else "")


def _self_description(command: str, argument: str) -> str:
    """What a compiler calls itself: gcc's first line, nvcc's "release" line."""
    answer = subprocess.run([command, argument], check=False, capture_output=True, text=True, timeout=20)
    lines = answer.stdout.splitlines() or [""]
    return next((line for line in lines if "release" in line), lines[0])


# ---- files ----


@dataclass(frozen=True)
class Files:
    """Files or folders that belong together below one root, and the command that gets them.

    Each entry lists alternatives, of which one is enough; the last part of a path may be a pattern.
    """

    what: str
    entries: tuple[tuple[str, ...], ...]
    mend: str


def check_datasets() -> Iterator[Finding]:
    """The data sets below DETECTRON2_DATASETS; the demonstration makes its own."""
    root = Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    for files in DATASETS:
        yield _look_for(files, root, f"Data sets in {root} (DETECTRON2_DATASETS)")


def check_weights() -> Iterator[Finding]:
    """Weights where the libraries keep what they download, and what this project's own tools write."""
    for files in WEIGHTS:
        yield _look_for(files, Path(), "Weights and vocabularies")


def _look_for(files: Files, root: Path, section: str) -> Finding:
    entries = [[os.path.expanduser(path) for path in entry] for entry in files.entries]
    found = [next((path for path in entry if _present(root / path)), "") for entry in entries]
    absent = [entry[0] for entry, path in zip(entries, found) if not path]
    if not absent:
        return Finding(section, files.what, "ok", ", ".join(_shortened(found)))
    seen = "not there" if not any(found) else f"incomplete, without {', '.join(absent)}"
    return Finding(section, files.what, "missing", seen, files.mend.replace("{root}", str(root)))


def _present(path: Path) -> bool:
    """Whether there is such a file or folder, with something in it."""
    return any(
        match.stat().st_size > 0 if match.is_file() else any(match.iterdir()) for match in path.parent.glob(path.name)
    )


def _shortened(paths: list[str]) -> list[str]:
    """The folders of several files, each once; a single file in full."""
    return paths if len(paths) == 1 else sorted({os.path.dirname(path) for path in paths})


def _cache(variable: str, default: str) -> str:
    return os.environ.get(variable) or default


_MINI_SPLITS = ("train", "train_norare", "val", "test")

DATASETS = (
    Files(
        "mini_lvis",
        (
            *((f"mini_lvis/annotations/mini_lvis_{split}.json",) for split in _MINI_SPLITS),
            *((f"mini_lvis/{split}",) for split in ("train", "val", "test")),
            ("mini_lvis/captions",),
        ),
        "python tools/make_mini_lvis.py --output {root}/mini_lvis",
    ),
    Files(
        "LVIS v1",
        (("lvis/lvis_v1_train.json",), ("lvis/lvis_v1_val.json",)),
        'curl -LO "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_{train,val}.json.zip"'
        " && unzip 'lvis_v1_*.json.zip' -d {root}/lvis",
    ),
    Files(
        "LVIS v1 without rare",
        (("lvis/lvis_v1_train_norare.json",),),
        "python tools/prepare_dataset.py lvis-norare",
    ),
    Files("LVIS v1 minival", (("lvis/lvis_v1_minival.json",),), "python tools/prepare_dataset.py lvis-minival"),
    Files(
        "COCO 2017 images",
        (("coco/train2017",), ("coco/val2017",)),
        'curl -LO "http://images.cocodataset.org/zips/{train,val}2017.zip"'
        " && unzip -q '[tv]*2017.zip' -d {root}/coco",
    ),
    Files(
        "COCO 2017 boxes",
        (("coco/annotations/instances_train2017.json",), ("coco/annotations/instances_val2017.json",)),
        "curl -LO http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
        " && unzip annotations_trainval2017.zip -d {root}/coco",
    ),
    Files(
        "OV-COCO",
        (
            ("coco/zero-shot/instances_train2017_seen_2_oriorder.json",),
            ("coco/zero-shot/instances_val2017_all_2_oriorder.json",),
        ),
        "python tools/prepare_dataset.py ov-coco",
    ),
    Files(
        "VOC 2007 test",
        (("VOC2007/JPEGImages",), ("VOC2007/Annotations",), ("VOC2007/ImageSets/Main/test.txt",)),
        "curl -LO http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar"
        " && tar -xf VOCtest_06-Nov-2007.tar -C {root} --strip-components 1",
    ),
    Files("VOC 2007 test as JSON", (("VOC2007/voc_2007_test.json",),), "python tools/prepare_dataset.py voc"),
    Files(
        "Objects365 v2 val",
        (("objects365/val",), ("objects365/annotations/zhiyuan_objv2_val.json",)),
        "download it from https://www.objects365.org and unpack it to {root}/objects365/{val,annotations}",
    ),
    Files(
        "Objects365 v2, names mended",
        (("objects365/annotations/zhiyuan_objv2_val_fixname.json",),),
        "python tools/prepare_dataset.py objects365",
    ),
)

_HUGGING_FACE = _cache("HF_HUB_CACHE", _cache("HF_HOME", "~/.cache/huggingface") + "/hub")
_DETECTRON2 = _cache("FVCORE_CACHE", "~/.torch/iopath_cache") + "/detectron2/ImageNetPretrained"

WEIGHTS = (
    Files("mini CLIP", (("output/mini/clip/*.pt",),), "make demo"),
    Files("mini vocabulary", (("output/mini/vocabulary.npz",),), "make demo"),
    Files(
        "ResNet-50 (ImageNet)",
        ((f"{_DETECTRON2}/torchvision/R-50.pkl", f"{_DETECTRON2}/MSRA/R-50.pkl"),),
        'python -c "import dk_detr; from detectron2.utils.file_io import PathManager; '
        "PathManager.get_local_path('detectron2://ImageNetPretrained/torchvision/R-50.pkl')\"",
    ),
    Files(
        "CLIP ViT-B/32 (OpenAI)",
        ((f"{_HUGGING_FACE}/models--timm--vit_base_patch32_clip_224.openai/snapshots", "~/.cache/clip/ViT-B-32.pt"),),
        "python -c \"import open_clip; open_clip.create_model('ViT-B-32-quickgelu', pretrained='openai')\"",
    ),
    Files(
        "LVIS vocabulary",
        (("datasets/vocabulary/lvis_v1.npz",),),
        "python tools/build_vocabulary.py --annotations datasets/lvis/lvis_v1_val.json"
        " --output datasets/vocabulary/lvis_v1.npz",
    ),
)

CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_project,
    check_gpu,
    check_compilers,
    check_attention,
    check_datasets,
    check_weights,
)
