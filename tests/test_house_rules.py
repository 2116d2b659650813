"""The rules of the house, read off the files: who may import whom, what every file has, what no file has."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NOUNS = {"structures", "layers", "utils"}
DETECTOR = {"language", "modeling", "criterion", "extensions", "distillation", "meta_arch"}
MAY_IMPORT: dict[str, set[str]] = {
    "compat": set(),
    "config": set(),
    "utils": set(),
    "layers": set(),
    "structures": {"layers", "utils"},
    "annotations": {"utils"},
    "language": NOUNS | {"annotations"},
    "data": NOUNS | {"annotations"},
    "evaluation": NOUNS | {"annotations"},
    "modeling": NOUNS,
    "criterion": NOUNS,
    "extensions": NOUNS | {"modeling", "criterion"},
    "distillation": NOUNS | {"language", "modeling", "criterion", "extensions"},
    "meta_arch": NOUNS | DETECTOR,
    "convert": NOUNS | DETECTOR | {"config"},
    "visualization": NOUNS | {"language"},
    "mini_world": NOUNS | {"language", "data"},
    "engine": NOUNS | DETECTOR | {"annotations", "compat", "config", "convert", "data", "evaluation"},
}
MAY_IMPORT["benchmark"] = {*MAY_IMPORT} - {"mini_world", "visualization"}
MAY_IMPORT["commands"] = {*MAY_IMPORT}
MAY_IMPORT["__init__"] = {*MAY_IMPORT}
"""Room of dk_detr (folder, or module beside the folders) -> the other rooms that it may import."""

TOP_LEVEL = re.compile(
    r"projects|dk_detr|configs|tools|tests|setup\.py|README\.md|LICENSE|Makefile|requirements.*\.txt|\..+"
)
MACHINE = re.compile(r"(?<![\w.~])/(?:work|farm|root|home|tmp|Users)/|pypi\.org|pythonhosted\.|npmjs\.|deb\.debian")
LONGEST_FUNCTION = 60


def house_files() -> list[Path]:
    """Every file that git has or would take, relative to the root; without git, every file that is no product."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        answer = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        names = [Path(line) for line in answer.stdout.splitlines()]
    else:
        tops = [top for top in ROOT.iterdir() if TOP_LEVEL.fullmatch(top.name) and not top.name.startswith(".")]
        inside = (path for top in tops for path in [top, *top.rglob("*")] if "__pycache__" not in path.parts)
        names = [path.relative_to(ROOT) for path in inside]
    return sorted(name for name in names if (ROOT / name).is_file())


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """The parsed Python files below the folders; all of them if none is named."""
    for path in house_files():
        if path.suffix == ".py" and (not folders or path.parts[0] in folders):
            yield path, ast.parse((ROOT / path).read_text())


def imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names that a module imports, those inside functions included; `from a import b` counts as "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    return ".".join(path.parent.parts)


def room_of(path: Path) -> str:
    return path.stem if len(path.parts) == 2 else path.parts[1]


def forbidden_imports(path: Path, tree: ast.Module) -> list[str]:
    """Rooms that a module of dk_detr imports and may not, as readable lines."""
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imported_names(tree, package_of(path)) if name.startswith("dk_detr.")}
    others = (rooms & set(MAY_IMPORT)) - {room}
    return [f"{path}: {room} may not import {other}" for other in sorted(others - MAY_IMPORT[room])]


def function_lengths(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and length of each function in lines, its docstring not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield node.name, lines - (docstring.count("\n") + 1 if docstring else 0)


def test_every_room_imports_only_the_rooms_below_it() -> None:
    offences = [line for path, tree in modules("dk_detr") for line in forbidden_imports(path, tree)]
    assert not offences, "\n".join(offences)


def test_a_forbidden_import_is_seen_however_it_is_written() -> None:
    path = Path("dk_detr/modeling/decoder.py")
    for source in (
        "import dk_detr.distillation",
        "from dk_detr.distillation import Branch",
        "from dk_detr import distillation",
        "from ..distillation import branch",
        "def f():\n    from .. import distillation",
    ):
        assert forbidden_imports(path, ast.parse(source)) == [f"{path}: modeling may not import distillation"], source
    assert not forbidden_imports(path, ast.parse("from dk_detr.layers import boxes\nfrom .neck import Neck"))


def test_every_room_has_its_line_in_the_table() -> None:
    assert {room_of(path) for path, _ in modules("dk_detr")} <= set(MAY_IMPORT)


def test_layers_know_nothing_but_torch_and_its_compiler() -> None:
    allowed = {"torch", "triton", "dk_detr", *sys.stdlib_module_names}
    offences = [
        f"{path}: {name}"
        for path, tree in modules("dk_detr")
        if room_of(path) == "layers"
        for name in imported_names(tree, package_of(path))
        if name.split(".")[0] not in allowed
    ]
    assert not offences, "\n".join(offences)


def test_the_package_never_imports_its_tools_projects_or_tests() -> None:
    offences = [
        f"{path}: {name}"
        for path, tree in modules("dk_detr")
        for name in imported_names(tree, package_of(path))
        if name.split(".")[0] in ("tools", "projects", "tests")
    ]
    assert not offences, "\n".join(offences)


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path) for path, tree in modules() if not ast.get_docstring(tree)]
    assert not silent, "No docstring: " + ", ".join(silent)


def test_no_function_is_longer_than_a_page() -> None:
    lengths = ((path, *function) for path, tree in modules() for function in function_lengths(tree))
    long = [f"{path} {name}: {length} lines" for path, name, length in lengths if length > LONGEST_FUNCTION]
    assert not long, "\n".join(long)


def test_the_top_level_holds_only_what_the_plan_names() -> None:
    strangers = {path.parts[0] for path in house_files() if not TOP_LEVEL.fullmatch(path.parts[0])}
    assert not strangers, f"The top level holds {sorted(strangers)}; see the plan's tree for where they belong."


def test_no_file_names_the_machine_it_was_written_on() -> None:
    offences = []
    for path in house_files():
        content = (ROOT / path).read_bytes()
        if b"\0" in content:  # a picture, an array
            continue
        lines = enumerate(content.decode(errors="replace").splitlines(), start=1)
        offences += [f"{path}:{number}: {line.strip()[:100]}" for number, line in lines if MACHINE.search(line)]
    assert not offences, "\n".join(offences)
