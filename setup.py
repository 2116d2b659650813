"""Installs the package `dk_detr`; `make venv` does so in .venv with the exact versions of requirements.txt.

Detectron2 is not listed, because the package index carries no build of it under that name: see
requirements-detectron2.txt, or build it from source. What Detectron2 itself imports is listed here, since it is
installed without its dependencies (its own limits are those of 2021).
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Of each project the Python package, under the name that a config's PROJECTS calls it by, such as projects.ViLD.vild.
PROJECTS = [".".join(file.relative_to(ROOT).parent.parts) for file in ROOT.glob("projects/**/__init__.py")]

# Folders of configs, which the package carries below dk_detr/zoo, side by side as here.
CONFIG_FILES = [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/*/configs/**/*.yaml")]
CONFIGS = sorted({".".join(file.relative_to(ROOT).parent.parts) for file in CONFIG_FILES})
ZOO = {f"dk_detr.zoo.{folder}": folder.replace(".", "/") for folder in CONFIGS}

DETECTRON2_NEEDS = [
    "black",
    "cloudpickle",
    "fvcore",
    "hydra-core",
    "iopath",
    "matplotlib",
    "omegaconf",
    "pycocotools",
    "pydot",
    "setuptools<81",  # for pkg_resources
    "tabulate",
    "tensorboard",
    "termcolor",
    "tqdm",
    "yacs",
]

EXTRAS = {
    "demo": ["gradio"],  # tools/web_demo.py
    "export": ["onnx", "onnxruntime", "onnxscript"],  # tools/export.py
    "label": ["supervision"],  # other formats of tools/label.py, tools/demo.py --slice, `Detections.to_supervision`
    "openai-clip": ["clip-anytorch"],  # OpenAI's `clip`, as the package index has it; for MODEL.CLIP.LIBRARY "clip"
    "video": ["av", "mss"],  # tools/demo.py --video-input and --webcam write by av; --screen looks by mss
}
FOR_TESTS = ["mypy", "pytest", "pytest-xdist", "ruff", "selenium", "transformers"]

setup(
    name="dk_detr",
    version="0.1.0",
    description="Distilling DETR with visual-linguistic knowledge for open-vocabulary object detection, on Detectron2",
    license="Apache-2.0",
    packages=[*find_packages(include=["dk_detr", "dk_detr.*"]), *sorted(PROJECTS), *ZOO],
    package_dir=ZOO,
    package_data={
        "dk_detr.layers.ops": ["*.cpp"],  # compiled at first use
        **{package: ["*.yaml", "*.json"] for package in ZOO},
    },
    python_requires=">=3.11",
    install_requires=[
        "lvis",
        "numpy",
        "open_clip_torch",
        "opencv-python-headless",  # lvis imports cv2; the variant without a window system runs everywhere
        "pillow",
        "safetensors",
        "scipy",
        "torch",
        "torchvision",
        "wheel",
        *DETECTRON2_NEEDS,
    ],
    extras_require={**EXTRAS, "dev": [*FOR_TESTS, *sorted(name for names in EXTRAS.values() for name in names)]},
)
