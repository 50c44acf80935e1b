"""The house rules as tests: folders, packages, links, who imports whom, sizes, mirrored tests.

Every rule is a function from a checkout to its violations, one line each. The rules run on this
checkout, and each runs on a small planted violation too, so that none can pass by seeing nothing.
"""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("environments", "rewards", "trainers")
FOLDERS = {"agentgym", *FAMILIES, "tests", "data"}
FILES = {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml"}
MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 100
HEAVY = ("torch", "transformers", "playwright", "textworld", "pandas", "PIL", "pyarrow", "typer")

ENVIRONMENTS_MAY_IMPORT = {
    f"agentgym.{name}"
    for name in (
        "actions",
        "bench",
        "core",
        "environments",
        "errors",
        "paths",
        "players",
        "registry",
        "seeding",
        "spaces",
        "tape",
        "types",
        "wrappers",
    )
}
# Where the core computes. Everywhere else it runs without torch installed.
TORCH_HOMES = (
    "agentgym.models",
    "agentgym.inference",
    "agentgym.losses",
    "agentgym.optim",
    "agentgym.checkpoint",
)

# Code files without a test file of the same name, each with the reason.
UNMIRRORED = {
    "agentgym/core.py": "contracts only; the contract tests of each family run them",
}
# Test files that mirror no code file, each with the reason.
CROSSCUTTING = {
    "conftest.py": "fixtures",
    "test_layout.py": "this file",
    "test_doctests.py": "the examples in all docstrings",
    "test_loop.py": "environment to weights and back, end to end",
    "test_hostile.py": "pages and agents that mean harm, against whole environments",
    "test_soak.py": "many minutes of many parts at once",
    "test_contract.py": "one contract, over a whole registry",
    "test_pictures.py": "screenshots to prompts, answers, rows and weights, end to end",
}


parse = cache(ast.parse)
"""Source text to its tree, once for all checks."""


def python_files(root: Path) -> Iterator[Path]:
    """Every code and test file, each once: the links inside agentgym/ are not followed."""
    for folder in sorted(FOLDERS - {"data"}):
        for file in sorted((root / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in file.parents if parent != root):
                yield file


def module_name(root: Path, file: Path) -> str:
    """The name a file is imported by, e.g. `agentgym.environments.web.view`."""
    parts = list(file.relative_to(root).with_suffix("").parts)
    if parts[0] in FAMILIES:
        parts.insert(0, "agentgym")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, package: str) -> bool:
    """True if `module` is `package` or lies in it."""
    return module == package or module.startswith(package + ".")


def imports(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """(line, module, at import time) of every import that can run; `TYPE_CHECKING` blocks cannot.

    ``from agentgym.types import Task`` counts as ``agentgym.types.Task``.
    """

    def walk(node: ast.AST, eager: bool) -> Iterator[tuple[int, str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other, eager)
            elif isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name, eager) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = "." * child.level + (child.module or "")
                yield from ((child.lineno, f"{base}.{alias.name}", eager) for alias in child.names)
            else:
                lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, eager and not lazy)

    yield from walk(tree, True)


def why_not(importer: str, imported: str) -> str:
    """The reason why one module may not import another; empty if it may."""
    if imported.startswith("."):
        return "relative import; write the full name"
    if imported.split(".")[0] in FAMILIES:
        return f"bare name; write agentgym.{imported}"
    family = next((f for f in FAMILIES if within(importer, f"agentgym.{f}")), None)
    target = next((f for f in FAMILIES if within(imported, f"agentgym.{f}")), None)
    torch = within(imported, "torch")
    if family is None:
        if target:
            return f"the core imports no family, not {target}"
        if torch and not any(within(importer, home) for home in TORCH_HOMES):
            return f"torch only in {', '.join(TORCH_HOMES)}"
    elif target not in (None, family):
        return f"{family} are blind to {target}; meet by registered name"
    elif family == "environments":
        if torch:
            return "no torch in environments"
        if within(imported, "agentgym") and not any(
            within(imported, allowed) for allowed in ENVIRONMENTS_MAY_IMPORT
        ):
            return "environments import the contracts only, no inference, policy or rollout"
    return ""


def check_imports(root: Path) -> Iterator[str]:
    """Who may import whom; no relative imports; families by their full name."""
    for file in python_files(root):
        importer = module_name(root, file)
        for line, imported, _ in imports(parse(file.read_text())):
            if within(importer, "tests"):
                bare = imported.startswith(".") or imported.split(".")[0] in FAMILIES
                reason = why_not(importer, imported) if bare else ""
            else:
                reason = why_not(importer, imported)
            if reason:
                yield f"{file.relative_to(root)}:{line}: {importer} imports {imported}: {reason}"


def check_cycles(root: Path) -> Iterator[str]:
    """Imports that run at import time form no cycle."""
    graph: dict[str, set[str]] = {}
    files = [file for file in python_files(root) if file.relative_to(root).parts[0] != "tests"]
    known = {module_name(root, file) for file in files}
    for file in files:
        found = {
            imported if imported in known else imported.rpartition(".")[0]
            for _, imported, eager in imports(parse(file.read_text()))
            if eager
        }
        graph[module_name(root, file)] = (found & known) - {"agentgym"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield f"import cycle: {' -> '.join((*path[path.index(name) :], name))}"
        elif name not in done:
            for imported in sorted(graph[name]):
                yield from visit(imported, (*path, name))
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, ())


def check_packages(root: Path) -> Iterator[str]:
    """pyproject.toml lists exactly the folders that hold an `__init__.py`."""
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(setuptools["packages"])
    found = {
        module_name(root, file) for file in python_files(root) if file.name == "__init__.py"
    } - {"tests"}
    for name in sorted(found - listed):
        yield f"package {name} is missing in pyproject.toml [tool.setuptools] packages"
    for name in sorted(listed - found):
        yield f"pyproject.toml lists package {name}, which has no __init__.py"
    for file in python_files(root):
        parent = file.parent.relative_to(root)
        if parent.parts[0] != "tests" and not (file.parent / "__init__.py").exists():
            yield f"{file.relative_to(root)} is in no package: {parent} has no __init__.py"


def check_links(root: Path) -> Iterator[str]:
    """`agentgym/<family>` are relative links to the three families."""
    for family in FAMILIES:
        link = root / "agentgym" / family
        if not link.is_symlink() or str(link.readlink()) != f"../{family}":
            yield f"agentgym/{family} is not a link to ../{family}: ln -s ../{family} {link}"


def top_level(root: Path) -> set[str]:
    """Names at the root that git knows or would add; all names if this is no git checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0 or not (root / ".git").exists():
        return {path.name for path in root.iterdir()}
    return {line.split("/")[0] for line in listing.stdout.splitlines()}


def check_top_level(root: Path) -> Iterator[str]:
    """The root holds the six folders, the files of convention, and names with a dot before."""
    for name in sorted(top_level(root) - FOLDERS - FILES):
        if not name.startswith(".") and (root / name).exists():
            yield f"{name} at the root: only {', '.join(sorted(FOLDERS | FILES))} belong there"


def check_sizes(root: Path) -> Iterator[str]:
    """Files of at most 700 lines, functions of at most 100."""
    for file in python_files(root):
        text = file.read_text()
        lines = len(text.splitlines())
        if lines > MAX_FILE_LINES:
            yield f"{file.relative_to(root)}: {lines} lines, at most {MAX_FILE_LINES}"
        for node in ast.walk(parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    yield (
                        f"{file.relative_to(root)}:{node.lineno}: {node.name} has {length} lines,"
                        f" at most {MAX_FUNCTION_LINES}"
                    )


def check_docstrings(root: Path) -> Iterator[str]:
    """Every module outside tests opens with what it is."""
    for file in python_files(root):
        if file.relative_to(root).parts[0] != "tests":
            if not ast.get_docstring(parse(file.read_text())):
                yield f"{file.relative_to(root)}: no module docstring"


def check_mirror(root: Path) -> Iterator[str]:
    """Every code file has its test file, every test file its code file; tests are no packages."""
    for file in python_files(root):
        path = file.relative_to(root)
        if path.parts[0] == "tests":
            code = Path(*path.parts[1:-1], path.name.removeprefix("test_"))
            if path.name == "__init__.py":
                yield f"{path}: tests have no __init__.py (pytest runs with importlib mode)"
            elif path.name not in CROSSCUTTING and not (
                (root / code).exists() or (root / code.with_suffix("") / "__init__.py").exists()
            ):
                yield f"{path} mirrors no code file: {code} does not exist"
        elif not path.name.startswith("__") and str(path) not in UNMIRRORED:
            test = Path("tests", *path.parts[:-1], f"test_{path.name}")
            if not (root / test).exists():
                yield f"{path} has no {test}"
    for name in UNMIRRORED:
        if not (root / name).exists():
            yield f"UNMIRRORED names {name}, which does not exist"


Check = Callable[[Path], Iterator[str]]
CHECKS: list[Check] = [
    check_imports,
    check_cycles,
    check_packages,
    check_links,
    check_top_level,
    check_sizes,
    check_docstrings,
    check_mirror,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_house_rules(check: Check) -> None:
    violations = list(check(ROOT))
    assert not violations, "\n" + "\n".join(violations)


def test_the_rules_see_this_checkout() -> None:
    names = {module_name(ROOT, file) for file in python_files(ROOT)}
    assert {"agentgym.types", "agentgym.rewards.success", "tests.test_layout"} <= names
    seen = [name for _, name, _ in imports(parse((ROOT / "agentgym/core.py").read_text()))]
    assert "agentgym.types.Trajectory" in seen, "imports() finds ordinary imports"
    assert "agentgym.chat.Conversation" not in seen, "imports() leaves out TYPE_CHECKING blocks"


def test_import_is_light() -> None:
    """A fresh interpreter imports agentgym without anything heavy."""
    code = (
        "import json, sys; import agentgym; "
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A smallest checkout that keeps every rule."""
    for folder in sorted(FOLDERS):
        (tmp_path / folder).mkdir()
        if folder not in ("tests", "data"):
            (tmp_path / folder / "__init__.py").write_text('"""A package."""\n')
    for family in FAMILIES:
        (tmp_path / "agentgym" / family).symlink_to(f"../{family}")
    (tmp_path / "agentgym" / "core.py").write_text('"""Contracts."""\n')
    packages = ["agentgym", *(f"agentgym.{family}" for family in FAMILIES)]
    (tmp_path / "pyproject.toml").write_text(f"[tool.setuptools]\npackages = {packages}\n")
    return tmp_path


def test_a_good_house_passes(house: Path) -> None:
    assert [violation for check in CHECKS for violation in check(house)] == []


PLANTED = [
    (check_imports, "agentgym/chat.py", "import agentgym.rewards.success\n", "core imports no"),
    (check_imports, "agentgym/chat.py", "def f():\n    import torch\n", "torch only in"),
    (check_imports, "agentgym/chat.py", "from agentgym import trainers\n", "core imports no"),
    (check_imports, "environments/maze.py", "import torch.nn\n", "no torch in environments"),
    (check_imports, "environments/maze.py", "import agentgym.policy\n", "contracts only"),
    (check_imports, "rewards/judge.py", "from agentgym import trainers\n", "blind to trainers"),
    (check_imports, "trainers/bc.py", "import agentgym.rewards.judge\n", "blind to rewards"),
    (check_imports, "trainers/bc.py", "from . import other\n", "relative import"),
    (check_imports, "tests/test_bc.py", "from trainers import bc\n", "bare name"),
    (check_cycles, "agentgym/types.py", "import agentgym.core\n", "import cycle"),
    (check_packages, "rewards/prompts/__init__.py", "", "missing in pyproject.toml"),
    (check_packages, "rewards/prompts/long.py", "", "is in no package"),
    (check_top_level, "scripts/run.py", "", "scripts at the root"),
    (check_sizes, "rewards/judge.py", "x = 1\n" * 701, "701 lines"),
    (check_sizes, "rewards/judge.py", "def f():\n" + "    x = 1\n" * 100, "f has 101 lines"),
    (check_docstrings, "rewards/judge.py", "x = 1\n", "no module docstring"),
    (check_mirror, "rewards/judge.py", "", "has no tests/rewards/test_judge.py"),
    (check_mirror, "tests/rewards/test_gone.py", "", "mirrors no code file"),
    (check_mirror, "tests/__init__.py", "", "no __init__.py"),
]


@pytest.mark.parametrize(("check", "path", "text", "message"), PLANTED)
def test_planted_violations_are_named(
    house: Path, check: Check, path: str, text: str, message: str
) -> None:
    (house / path).parent.mkdir(parents=True, exist_ok=True)
    (house / path).write_text(text)
    if "cycle" in message:
        (house / "agentgym/core.py").write_text("from agentgym import types\n")
    violations = list(check(house))
    assert len(violations) == 1, violations
    assert message in violations[0]


def test_a_lost_link_is_named(house: Path) -> None:
    (house / "agentgym" / "rewards").unlink()
    (house / "agentgym" / "rewards").write_text("../rewards")
    assert [violation.split()[0] for violation in check_links(house)] == ["agentgym/rewards"]


def test_type_checking_imports_are_free(house: Path) -> None:
    (house / "agentgym/chat.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import re\n"
    )
    assert list(check_imports(house)) == []
