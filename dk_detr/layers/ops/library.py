"""Compiles cpu_kernels.cpp and loads it: the only build step of this project, at first use, with a fallback.

It needs a C++ compiler and no headers but the standard library's, neither torch's nor Python's. The library is kept in
`DK_DETR_CACHE`, else in `~/.cache/dk_detr`, under a name that follows from source, compiler and processor. It appears
there whole, so any number of processes may start at once; where no folder can be written, each process makes its own.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

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
    if folder is not None and _is_whole(folder / name):
        return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as scratch:
        unlinked, library = f"{scratch}/kernels.o", f"{scratch}/{name}"
        _run([compiler, *to_compile, "-c", str(SOURCE), "-o", unlinked])
        _run([compiler, "-shared", unlinked, *to_link, "-o", library])
        loaded = ctypes.CDLL(library, mode=os.RTLD_NOW)  # a library whose OpenMP is not there fails here
        if folder is not None:
            with contextlib.suppress(OSError):  # it works; the next process makes its own
                _keep(library, folder / name)
        return loaded


def _keep(library: str, place: Path) -> None:
    """Copy beside its place, then move: others see the whole library or none. A checksum follows what is loaded."""
    content = Path(library).read_bytes()
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=place.name, delete=False) as part:
        part.write(content + hashlib.sha256(content).digest())
    os.replace(part.name, place)


def _is_whole(path: Path) -> bool:
    """Loading a file that a crash of the machine cut short would end the process, not raise an error."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OSError(next((line for line in lines if "error" in line), lines[-1]))


def _cache_folder() -> Path | None:
    """Where libraries are kept; None where the folder cannot be written."""
    folder = Path(os.environ.get("DK_DETR_CACHE") or Path.home() / ".cache" / "dk_detr")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


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
