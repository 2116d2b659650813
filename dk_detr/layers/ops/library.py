"""Compiles cpu_kernels.cpp and loads it: the only build step of this project, at first use, with a fallback.

It needs a C++ compiler and no headers but the standard library's, neither torch's nor Python's. The library is kept in
`DK_DETR_CACHE`, else in `~/.cache/dk_detr`, under a name that follows from source, compiler and processor. It appears
there whole, so any number of processes may start at once; where no folder can be written, each process makes its own.

To load a library is to run it. One that others could have written (see `distrust`) is left alone, with a warning, and
each process makes its own; one that root or the user made serves from a folder that cannot be written, too.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
# (to compile, to link), the best first. Linked without an OpenMP library of its own, the kernel uses the one that torch
# has loaded, and its threads; two libraries would each keep threads that spin in one another's way.
VARIANTS = (
    (("-march=native", "-fopenmp"), ()),
    (("-march=native", "-fopenmp"), ("-fopenmp",)),
    (("-march=native",), ()),
    ((), ()),
)
PATIENCE = 120  # seconds for one compiler call


def load_library() -> ctypes.CDLL:
    """The compiled kernels. Raises OSError that says why there are none."""
    found = _load()
    if isinstance(found, str):
        raise OSError(found)
    return found


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none; found out once, as compilers that fail are slow at it."""
    compiler = find_compiler()
    if compiler is None:
        return f"no C++ compiler was found ($CXX, {', '.join(COMPILERS)})"
    errors = []
    for to_compile, to_link in VARIANTS:
        try:
            return _built(compiler, [*FLAGS, *to_compile], list(to_link))
        except (OSError, subprocess.SubprocessError) as error:
            errors.append(str(error))
    return f"{compiler} could not build it ({errors[-1]})"


def find_compiler() -> str | None:
    """The path of $CXX if that is set, else of the first known compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def _built(compiler: str, to_compile: list[str], to_link: list[str]) -> ctypes.CDLL:
    """Load the library made with these flags; make it first if it is not kept yet."""
    name = f"attention-{_fingerprint(compiler, *to_compile, '|', *to_link)}.so"
    folder = _cache_folder()
    if folder is not None and _may_be_loaded(folder / name):
        return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as scratch:
        unlinked, library = f"{scratch}/kernels.o", f"{scratch}/{name}"
        _run([compiler, *to_compile, "-c", str(SOURCE), "-o", unlinked])
        _run([compiler, "-shared", unlinked, *to_link, "-o", library])
        loaded = ctypes.CDLL(library, mode=os.RTLD_NOW)  # a library whose OpenMP is not there fails here
        if folder is not None and os.access(folder, os.W_OK):
            with contextlib.suppress(OSError):  # it works; the next process makes its own
                _keep(library, folder / name)
        return loaded


def _keep(library: str, place: Path) -> None:
    """Copy beside its place, then move: others see the whole library or none. A checksum follows what is loaded."""
    content = Path(library).read_bytes()
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=place.name, delete=False) as part:
        part.write(content + hashlib.sha256(content).digest())
    os.chmod(part.name, 0o644)  # what root makes serves all
    os.replace(part.name, place)


def _may_be_loaded(path: Path) -> bool:
    """Whether it is there and whole, and nobody but its user can have written it."""
    try:
        if not path.is_file():
            return False
        reason = distrust(path)
        if reason:
            logger.warning(f"{path} is not loaded, as {reason}: it is made anew.")
        return reason is None and _is_whole(path)
    except OSError:  # it cannot be read
        return False


def distrust(path: Path) -> str | None:
    """Why somebody else may have written a file or a folder; None where only root and the user can have."""
    found = path.stat()
    if hasattr(os, "getuid") and found.st_uid not in (0, os.getuid()):
        return f"it belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write it (chmod go-w {path})"
    return None


def _is_whole(path: Path) -> bool:
    """Loading a file that a crash of the machine cut short would end the process, not raise an error."""
    content = path.read_bytes()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OSError(next((line for line in lines if "error" in line), lines[-1]))


def _cache_folder() -> Path | None:
    """Where libraries are kept; None where there is no such folder, or others could change what is in it."""
    try:
        given = os.environ.get("DK_DETR_CACHE")
        folder = Path(given) if given else Path.home() / ".cache" / "dk_detr"
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not given:
            with contextlib.suppress(OSError):  # of another user, or read-only
                folder.chmod(folder.stat().st_mode & ~0o022)  # older releases left it to the umask
        reason = distrust(folder)
    except (OSError, RuntimeError):  # not even a home
        return None
    if reason:
        _warn(f"Kernels are not kept in {folder}, as {reason}: each process makes its own. See DK_DETR_CACHE.")
    return None if reason else folder


@functools.cache
def _warn(message: str) -> None:
    logger.warning(message)


def _fingerprint(*parts: str) -> str:
    """Changes with the source, the flags, the compiler's file and the processor: a home may be shared by machines."""
    compiler = os.stat(parts[0])
    facts = [*parts, f"{compiler.st_size} {compiler.st_mtime_ns}", SOURCE.read_text(), platform.machine(), _processor()]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What the processor can do, as Linux lists it; elsewhere its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
