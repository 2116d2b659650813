"""The one build step: made at first use, kept, safe beside others, and never in the way where it cannot be done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dk_detr.layers.ops import library

REPOSITORY = Path(__file__).resolve().parents[2]
# The operators alone: a package around them that imports no Detectron2, so that each process takes two seconds.
PROGRAM = """
import logging, sys, types
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO", stream=sys.stdout)
package = types.ModuleType("dk_detr")
package.__path__ = [sys.argv[1]]
sys.modules["dk_detr"] = package
import torch
from dk_detr.layers.ops import ms_deform_attn
for _ in range(2):
    middle = torch.full((1, 1, 1, 1, 1, 2), 0.5)
    out = ms_deform_attn(torch.ones(1, 4, 1, 2), [(2, 2)], middle, torch.ones(1, 1, 1, 1, 1))
print(out.tolist())
"""
needs_compiler = pytest.mark.skipif(library.find_compiler() is None, reason="no C++ compiler")


def start(cache: Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(REPOSITORY / "dk_detr")]
    env = {"PATH": os.environ["PATH"], "HOME": str(cache), "DK_DETR_CACHE": str(cache), **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines_of(process: subprocess.Popen) -> list[str]:
    """What it printed, of a process that computed the right answer."""
    lines = process.communicate(timeout=200)[0].strip().splitlines()
    assert lines[-1] == "[[[1.0, 1.0]]]", lines
    return lines


def test_without_a_compiler_it_works_with_one_warning(tmp_path: Path) -> None:
    lines = lines_of(start(tmp_path, PATH="/nowhere"))
    assert len(lines) == 2
    assert lines[0].startswith("WARNING") and '"reference"' in lines[0] and "no C++ compiler was found" in lines[0]


def test_a_compiler_that_fails_is_named_with_its_reason_and_it_works(tmp_path: Path) -> None:
    compiler = tmp_path / "broken++"
    compiler.write_text("#!/bin/sh\necho 'error: licence expired' >&2\nexit 1\n")
    compiler.chmod(0o755)
    lines = lines_of(start(tmp_path, CXX=str(compiler)))
    assert len(lines) == 2 and "WARNING" in lines[0] and "broken++" in lines[0] and "licence expired" in lines[0]


@needs_compiler
def test_processes_that_start_at_once_leave_one_library_that_the_next_finds(tmp_path: Path) -> None:
    for process in [start(tmp_path) for _ in range(2)]:
        assert lines_of(process)[0] == 'INFO Deformable attention on cpu: backend "cpu".'
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    assert len(lines_of(start(tmp_path))) == 2
    assert kept.stat().st_mtime_ns == before


@needs_compiler
def test_a_library_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DK_DETR_CACHE", str(tmp_path))
    library._load.__wrapped__()
    (kept,) = tmp_path.iterdir()
    whole = kept.stat().st_size
    cut = kept.read_bytes()[:1000]
    kept.unlink()  # written anew: a loaded library must not change
    kept.write_bytes(cut)
    assert not isinstance(library._load.__wrapped__(), str)
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_size == whole


@needs_compiler
def test_where_nothing_can_be_kept_it_is_made_for_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    monkeypatch.setenv("DK_DETR_CACHE", str(file / "below"))
    assert not isinstance(library._load.__wrapped__(), str)


@needs_compiler
def test_without_openmp_or_native_instructions_it_is_built_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last variants are for compilers that know fewer flags: such a one is made here."""
    real, picky = library.find_compiler(), tmp_path / "picky++"
    picky.write_text(
        '#!/bin/sh\nfor word in "$@"; do case "$word" in\n-fopenmp|-march=native) echo "error: $word" >&2; exit 1;;\n'
        f'esac; done\nexec {real} "$@"\n'
    )
    picky.chmod(0o755)
    monkeypatch.setenv("CXX", str(picky))
    monkeypatch.setenv("DK_DETR_CACHE", str(tmp_path / "cache"))
    assert not isinstance(library._load.__wrapped__(), str)


# ---- whose libraries are loaded ----


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library in a folder of its own, which is the cache."""
    monkeypatch.setenv("DK_DETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_run", lambda command: Path(command[-1]).write_bytes(b"library"))
    monkeypatch.setattr(library.ctypes, "CDLL", lambda path, mode=0: path)
    monkeypatch.setattr(library, "find_compiler", lambda: sys.executable)
    library._load.__wrapped__()
    (file,) = (tmp_path / "cache").iterdir()
    return file


def loaded_from() -> Path:
    """Where the next process loads from."""
    found = library._load.__wrapped__()
    assert isinstance(found, str), found
    return Path(found)


def test_a_library_of_ones_own_is_loaded_from_where_it_is_kept(kept: Path) -> None:
    assert loaded_from() == kept
    assert kept.stat().st_mode & 0o777 == 0o644 and kept.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_not_loaded_and_made_anew(
    mode: int, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.chmod(mode)
    assert loaded_from() != kept
    assert f"{kept} is not loaded, as others may write it" in caplog.text
    assert loaded_from() == kept, "the new one is in its place"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_is_not_used_and_one_warning_says_so(
    mode: int, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = kept.read_bytes(), kept.stat().st_mtime_ns
    kept.parent.chmod(mode)
    assert loaded_from() != kept and loaded_from() != kept
    assert caplog.text.count(f"Kernels are not kept in {kept.parent}, as others may write it") == 1
    assert f"chmod go-w {kept.parent}" in caplog.text and "DK_DETR_CACHE" in caplog.text
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == before


def owned_by(user: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the user had made it."""
    real = Path.stat

    def stat(self: Path, **options: bool) -> os.stat_result:
        found = real(self, **options)
        return os.stat_result((*found[:4], user, *found[5:])) if self == path else found

    monkeypatch.setattr(Path, "stat", stat)


@pytest.mark.parametrize("part", ["file", "folder"])
def test_what_belongs_to_another_user_is_not_loaded(
    part: str, kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owned_by(os.getuid() + 4711, kept if part == "file" else kept.parent, monkeypatch)
    assert loaded_from() != kept
    assert "belongs to another user (uid" in caplog.text


def test_what_root_made_is_loaded_by_all(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    owned_by(0, kept, monkeypatch)
    assert library.distrust(kept) is None


def test_a_folder_that_cannot_be_written_serves_what_it_has(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert loaded_from() == kept
    kept.unlink()
    assert loaded_from().name == kept.name and not kept.exists(), "made for the process, and not kept"


def test_the_folder_of_the_home_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DK_DETR_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "dk_detr"
    folder.mkdir(parents=True)
    folder.chmod(0o775)
    assert library._cache_folder() == folder and folder.stat().st_mode & 0o777 == 0o755


def test_without_a_home_each_process_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DK_DETR_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert library._cache_folder() is None


def test_another_source_compiler_or_flag_has_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, source = tmp_path / "c++", tmp_path / "kernels.cpp"
    compiler.write_text("one")
    source.write_text("int x;")
    monkeypatch.setattr(library, "SOURCE", source)
    names = [library._fingerprint(str(compiler), "-O3"), library._fingerprint(str(compiler), "-O2")]
    compiler.write_text("another")
    names.append(library._fingerprint(str(compiler), "-O3"))
    source.write_text("int y;")
    names.append(library._fingerprint(str(compiler), "-O3"))
    assert len(set(names)) == 4
    assert names[-1] == library._fingerprint(str(compiler), "-O3")


def test_the_source_is_installed_with_the_package() -> None:
    assert library.SOURCE.is_file()
    assert '"dk_detr.layers.ops": ["*.cpp"]' in (REPOSITORY / "setup.py").read_text()
