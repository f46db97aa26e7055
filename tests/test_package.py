from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from lab import run_fresh_python

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_adv2"
TESTS = ROOT / "tests"
FILES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_wheel(tmp_path: Path) -> None:
    pytest.importorskip("build")
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(PACKAGE, source / "lightning_adv2", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    data = {"lightning_adv2/py.typed"}
    data |= {
        f"lightning_adv2/report/html/templates/{path.name}"
        for path in (PACKAGE / "report" / "html" / "templates").iterdir()
    }
    assert len(data) > 1
    assert {name(path) for path in FILES} | data == {n for n in names if ".dist-info/" not in n}
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert "lightning-adv2 = lightning_adv2.__main__:main" in entry_points


def test_the_attack_layers_load_neither_lightning_nor_wandb(tmp_path: Path) -> None:
    code = (
        "import sys, lightning_adv2, lightning_adv2.attacks, lightning_adv2.interpreters\n"
        "heavy = {'pytorch_lightning', 'lightning', 'wandb', 'torchmetrics', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(lightning_adv2.__version__, lightning_adv2.adv2.__name__)"
    )
    done = run_fresh_python("-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "adv2"


def test_a_clone_of_the_packages_name_does_not_hide_it_in_the_folder_above(tmp_path: Path) -> None:
    (tmp_path / "lightning_adv2" / "lightning_adv2").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "from lightning_adv2 import adv2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\nInstalled before this rule? pip install -e '.[test]'"


def test_two_lightnings_are_never_mixed() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [m for m in modules if m == "lightning" or m.startswith("lightning.")], name(path)


def test_no_file_imports_a_test_module() -> None:
    """What two test modules need stands in a module of its own."""
    modules = {".".join(path.relative_to(TESTS).with_suffix("").parts) for path in TESTS.rglob("test_*.py")}
    for path in (*TESTS.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                found = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            assert not found & modules, f"{name(path)}, line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_documented_and_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    assert text.isascii(), "ASCII in code"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module has no docstring"

    def check(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
                continue
            # An abstract stub of a Python protocol (... as its only statement) says all by its name.
            stub = isinstance(child.body[0], ast.Expr) and isinstance(child.body[0].value, ast.Constant)
            assert ast.get_docstring(child) or stub, f"{prefix}{child.name} has no docstring"
            if isinstance(child, ast.ClassDef):
                check(child, f"{prefix}{child.name}.")

    check(tree, "")


@pytest.mark.parametrize("path", sorted({path.parent for path in FILES}), ids=name)
def test_all_names_exist(path: Path) -> None:
    module = __import__(".".join(path.relative_to(ROOT).parts), fromlist=["__all__"])
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported), exported
