"""The import rules: configs < worldmodel < envs < dreaming, PyBullet in envs alone, torch never in envs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("configs", "worldmodel", "envs", "dreaming")
MAY_IMPORT = {
    "configs": ("configs",),
    "worldmodel": ("worldmodel", "configs"),
    "envs": ("envs", "configs", "worldmodel.episode", "worldmodel.storage"),
    "dreaming": PACKAGES,
}


def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it; `from worldmodel import storage` counts as worldmodel.storage."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(root: Path, package: str) -> dict[str, Path]:
    def name(path: Path) -> str:
        return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")

    return {name(path): path for path in sorted((root / package).rglob("*.py"))}


def run_python(root: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(root, package):
    for name, path in modules(root, package).items():
        for imported in imports(path):
            if imported.split(".")[0] in PACKAGES:
                allowed = any(imported == one or imported.startswith(f"{one}.") for one in MAY_IMPORT[package])
                assert allowed, f"{name} imports {imported}"


def test_pybullet_is_imported_in_envs_alone_and_torch_never_there(root):
    for package in PACKAGES:
        for name, path in modules(root, package).items():
            roots = {imported.split(".")[0] for imported in imports(path)}
            if package == "envs":
                assert "torch" not in roots, name
            else:
                assert not roots & {"pybullet", "pybullet_data", "pybullet_envs", "pybullet_utils"}, name


def test_importing_envs_does_not_load_torch(root):
    imports_all = "".join(f"import {name}\n" for name in modules(root, "envs"))
    loaded = run_python(root, f"import sys\n{imports_all}print('torch' in sys.modules)")
    assert loaded.split()[-1] == "False"


def test_without_pybullet_everything_but_the_simulator_imports(root):
    simulator = ("envs.bullet", "envs.camera", "envs.machine", "envs.tasks.")
    names = [name for package in PACKAGES for name in modules(root, package) if not name.startswith(simulator)]
    code = f"""
import importlib, sys
for blocked in ("pybullet", "pybullet_data", "pybullet_envs", "pybullet_utils"):
    sys.modules[blocked] = None  # importing it raises ImportError
for name in {names}:
    importlib.import_module(name)
from configs import UserError
from envs import registry
try:
    registry.make("push-box")
except UserError as error:
    print(error)
"""
    assert "pybullet" in run_python(root, code).lower()


@pytest.mark.parametrize("command", ["dreaming.cli", "worldmodel.cli"])
def test_commands_start_light(root, command):
    heavy = ("torch", "pybullet", "wandb", "matplotlib", "av", "gymnasium")
    loaded = run_python(root, f"import sys, {command}\nprint([name for name in {heavy} if name in sys.modules])")
    assert loaded.strip() == "[]"
