"""Makes Detectron2 importable on today's Python stack: the first thing that `import dk_detr` does.

Detectron2 0.6 is from 2021 and the last release. Since then NumPy and Pillow have dropped names that it uses, and the
package index carries its Python files only, without the compiled module `detectron2._C`. Each function here mends one
such thing, only where it is missing, and may be called any number of times. A Detectron2 built from source keeps its
own `_C`.

Nothing but the standard library is imported at the top, so that a missing package is named together with its remedy.
"""

import importlib
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Literal

EXTENSION = "detectron2._C"
FAST_COCO = "detectron2.evaluation.fast_eval_api"

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "pycocotools": "pycocotools",
    "lvis": "lvis",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "open_clip": "open_clip_torch",
}
"""What the package cannot do without, Detectron2 apart: module name -> name on the package index."""

INSTALL_DETECTRON2 = (
    "uv pip install --no-build-isolation --no-deps"
    " -C=--global-option=build_py -C=--build-option=--skip-build pb1-detectron2==0.6"
)
"""Installs Detectron2's Python files. pip refuses these build settings; uv takes them."""

KNOWN_NOISE: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`?torch\.cuda\.amp\."),
    (UserWarning, r"torch\.meshgrid: in an upcoming release"),
    (UserWarning, r"pkg_resources is deprecated as an API"),
    (DeprecationWarning, r"`torch\.jit\.script` is deprecated"),
    (DeprecationWarning, r"The 'warn' method is deprecated"),
    (RuntimeWarning, r"Image size \(\d+ pixels\) exceeds limit"),
)
"""Warnings which nobody can act on, of Detectron2 0.6 and lvis against themselves and of Pillow against images that it
opens all the same (the largest it refuses): category, start of the message."""


def make_importable() -> None:
    """Bring the installed Detectron2 to work with the installed Python stack, or say what is missing.

    Raises: ImportError naming the absent or mismatched package and the command that installs it.
    """
    require_packages()
    restore_numpy_aliases()
    restore_pillow_filter()
    stand_in_for_extension()
    stand_in_for_fast_coco()
    silence_known_noise()


def require_packages() -> None:
    """Refuse to go on without a package that everything needs; without this the error would come from deep inside."""
    for module, package in REQUIRED.items():
        if importlib.util.find_spec(module) is None:
            raise ImportError(_absent(module, f"`pip install {package}`"))
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(_absent("detectron2", f"`pip install uv && {INSTALL_DETECTRON2}`, or build it from source"))
    require_matching_torchvision()


def require_matching_torchvision() -> None:
    """Refuse a torchvision built for another torch (the CPU-only one, say): "operator … does not exist"."""
    import torch

    try:
        importlib.import_module("torchvision")
    except (RuntimeError, OSError) as error:
        raise ImportError(
            f"torchvision was built for another torch than the installed {torch.__version__} ({error}). "
            "Install both from the same source: `pip install --force-reinstall torch torchvision`."
        ) from error


def restore_numpy_aliases() -> None:
    """Give NumPy back `np.int` and its kin, removed in 1.24, which Detectron2 0.6 and lvis 0.5.3 still write."""
    import numpy as np

    for alias in (int, float, bool, object, str):
        # vars, not hasattr: on some NumPy versions the mere question raises a FutureWarning.
        if alias.__name__ not in vars(np):
            setattr(np, alias.__name__, alias)


def restore_pillow_filter() -> None:
    """Give Pillow back `Image.LINEAR`, removed in 10, which Detectron2 0.6 takes as a default argument."""
    from PIL import Image

    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]


def detectron2_build() -> Literal["source", "pure Python"]:
    """Which Detectron2 is installed, for the log and the doctor: with its own compiled `_C`, or without."""
    module = sys.modules.get(EXTENSION)
    if module is None:
        return "pure Python" if importlib.util.find_spec(EXTENSION) is None else "source"
    return "pure Python" if isinstance(module, MissingExtension) else "source"


class MissingExtension(ModuleType):
    """Stands in for `detectron2._C`, so that Detectron2 imports; using a compiled operator raises an error saying so.

    DK-DETR needs none; rotated boxes, Detectron2's own deformable convolution and fast COCO evaluation do.
    The three answers below are what `detectron2.utils.collect_env` asks of the extension for the log.
    """

    def __init__(self) -> None:
        super().__init__(EXTENSION, self.__doc__)
        self.__spec__ = ModuleSpec(EXTENSION, loader=None, origin="dk_detr.compat")
        self.get_compiler_version = lambda: "none, Detectron2 is pure Python"
        self.get_cuda_version = lambda: "none"
        self.has_cuda = lambda: False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by inspect, pickle and pytest of every module
            raise AttributeError(name)
        raise AttributeError(
            f"{EXTENSION}.{name} is a compiled operator, and the installed Detectron2 is pure Python. "
            "Build Detectron2 from source (its INSTALL.md says how), or choose a part that does not need it."
        )


def stand_in_for_extension() -> None:
    """Put `MissingExtension` where Detectron2 looks for `_C`, unless the real one is there."""
    if EXTENSION in sys.modules or importlib.util.find_spec(EXTENSION) is not None:
        return
    extension = MissingExtension()
    sys.modules[EXTENSION] = extension
    vars(sys.modules["detectron2"])["_C"] = extension  # find_spec has imported the package


def stand_in_for_fast_coco() -> None:
    """Without the extension let Detectron2's COCO evaluator, which asks for the C++ one by default, use pycocotools."""
    if detectron2_build() == "source" or FAST_COCO in sys.modules:
        return
    from pycocotools.cocoeval import COCOeval

    module = ModuleType(FAST_COCO, "pycocotools' evaluation under the name of Detectron2's compiled one.")
    vars(module)["COCOeval_opt"] = COCOeval
    sys.modules[FAST_COCO] = module


def silence_known_noise() -> None:
    """Hide the warnings of `KNOWN_NOISE`, and no others."""
    for category, message in KNOWN_NOISE:
        warnings.filterwarnings("ignore", message=message, category=category)


def _absent(module: str, remedy: str) -> str:
    return (
        f"dk_detr needs `{module}`, which this Python ({sys.executable}) does not have. "
        f"`make venv` sets up everything in .venv; by hand: {remedy}."
    )
