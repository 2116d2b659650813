"""The rules of the house, read off the files: who may import whom, what every file has, what no file has."""

import ast
import functools
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
    "zoo": set(),
    "layers": set(),
    "structures": {"layers", "utils"},
    "annotations": {"utils"},
    "language": NOUNS | {"annotations"},
    "data": NOUNS | {"annotations"},
    "evaluation": NOUNS | {"annotations"},
    "modeling": NOUNS,
    "criterion": NOUNS | {"annotations"},
    "extensions": NOUNS | {"modeling", "criterion"},
    "distillation": NOUNS | {"language", "modeling", "criterion", "extensions"},
    "meta_arch": NOUNS | DETECTOR,
    "convert": NOUNS | DETECTOR | {"config"},
    "visualization": NOUNS | {"language"},
    "mini_world": NOUNS | {"language", "data"},
    "engine": NOUNS | DETECTOR | {"annotations", "compat", "config", "convert", "data", "evaluation", "zoo"},
    "detector": NOUNS | {"data", "engine", "language", "visualization"},
}
MAY_IMPORT["explain"] = NOUNS | DETECTOR | {"engine", "visualization"}
MAY_IMPORT["export"] = NOUNS | DETECTOR
MAY_IMPORT["benchmark"] = {*MAY_IMPORT} - {"detector", "explain", "export", "mini_world", "visualization"}
MAY_IMPORT["commands"] = {*MAY_IMPORT}
MAY_IMPORT["__init__"] = {*MAY_IMPORT}
"""Room of dk_detr (folder, or module beside the folders) -> the other rooms that it may import."""

TOP_LEVEL = re.compile(
    r"projects|dk_detr|configs|tools|tests|setup\.py|(README|CHANGELOG)\.md|CITATION\.cff|LICENSE|Makefile|"
    r"requirements.*\.txt|\..+"
)
MACHINE = re.compile(r"(?<![\w.~])/(?:work|farm|root|home|tmp|Users)/|pypi\.org|pythonhosted\.|npmjs\.|deb\.debian")
LONGEST_FUNCTION = 60


@functools.cache
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
            yield path, parsed(path)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """A Python file of the house; the rules read each many times."""
    return ast.parse((ROOT / path).read_text())


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


def home_of(name: str) -> str:
    """The room of a dotted name: "dk_detr.data.bank.follow" -> "data"; outside of dk_detr its first part."""
    first, *rest = name.split(".")
    return rest[0] if first == "dk_detr" and rest else first


def private_imports(path: Path, tree: ast.Module) -> list[str]:
    """Names of other rooms that a module imports though they begin with an underscore, as readable lines."""
    ours, house = home_of(".".join(path.with_suffix("").parts)), ("dk_detr", "projects", "tools", "tests")
    return [
        f"{path}: {name} is private to {home_of(name)}"
        for name in imported_names(tree, package_of(path))
        if name.split(".")[0] in house and home_of(name) != ours
        if any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
    ]


@functools.cache
def offered(package: Path) -> set[str] | None:
    """The `__all__` of a package, and its modules; None where it has no `__all__`."""
    for node in ast.parse((ROOT / package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            modules_in = {path.stem for path in (ROOT / package).iterdir() if path.is_dir() or path.suffix == ".py"}
            return {*ast.literal_eval(node.value), *modules_in}
    return None


def unoffered_imports(path: Path, tree: ast.Module) -> list[str]:
    """Names that a module takes from the package of another room, where that package does not offer them."""
    found = []
    for name in imported_names(tree, package_of(path)):
        package = Path(*name.split(".")[:-1])
        known = offered(package) if (ROOT / package / "__init__.py").is_file() else None
        if known is not None and package not in path.parents and name.split(".")[-1] not in known:
            found.append(f"{path}: {name} is not in the __all__ of its package")
    return found


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


def test_no_room_imports_what_is_private_to_another() -> None:
    everywhere = modules("dk_detr", "projects", "tools")
    offences = [line for path, tree in everywhere for line in private_imports(path, tree)]
    assert not offences, "\n".join(offences)


def test_a_private_import_is_seen_however_it_is_written() -> None:
    path = Path("dk_detr/commands/demo.py")
    for source in (
        "from dk_detr.data.loader import _Positions",
        "from dk_detr.data._loader import Positions",
        "import dk_detr.data._loader",
        "from ..data.loader import _Positions as Positions",
        "def f():\n    from dk_detr.data import _loader",
    ):
        assert len(private_imports(path, ast.parse(source))) == 1, source
    fine = "from torch.nn.modules.batchnorm import _BatchNorm\nfrom dk_detr.commands.train import _train"
    assert not private_imports(path, ast.parse(f"{fine}\nfrom dk_detr.data import __file__"))


def test_what_is_imported_from_a_package_stands_in_its_all() -> None:
    everywhere = modules("dk_detr", "projects", "tools", "tests")
    offences = [line for path, tree in everywhere for line in unoffered_imports(path, tree)]
    assert not offences, "\n".join(offences)


def test_an_import_that_a_package_does_not_offer_is_seen() -> None:
    path, inside = Path("dk_detr/commands/demo.py"), Path("dk_detr/data/check/names.py")
    assert unoffered_imports(path, ast.parse("from dk_detr.data import islice"))
    assert not unoffered_imports(path, ast.parse("from dk_detr.data import TrainStream, loader\nimport dk_detr.data"))
    assert not unoffered_imports(inside, ast.parse("from dk_detr.data import islice"))


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
