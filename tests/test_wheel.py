"""What a user installs: the built wheel, in an environment and a folder that know nothing of the repository."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest

COMMANDS = ("dream", "train-world-model", "record-rollouts", "evaluate-policy", "audit-dreams", "export-policy")
NOT_SOURCE = {".git", ".venv", "runs", "logs", "wandb", "build", "dist"}


def run(*command: object, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source") / "checkout"  # a copy: building leaves files beside the sources

    def left(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name.endswith(".so") or (Path(folder) == root and name in NOT_SOURCE)}

    shutil.copytree(root, source, ignore=left)
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """Folder of the installed commands. The dependencies are borrowed from here, or this would take minutes."""
    clean = tmp_path_factory.mktemp("clean") / "venv"
    done = run(sys.executable, "-m", "venv", "--without-pip", clean, cwd=clean.parent)
    assert done.returncode == 0, done.stderr
    python = clean / "bin" / "python"
    install = ("install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    done = run(sys.executable, "-m", "pip", "--python", python, *install, cwd=clean.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    # A line in a .pth adds a folder, but does not run that folder's own .pth files: an editable install stays away.
    (site_packages,) = clean.glob("lib/python3*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return clean / "bin"


def test_wheel_holds_the_packages_and_their_data_and_nothing_else(wheel, root):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"configs", "worldmodel", "envs", "dreaming"}
    here = [path.relative_to(root).as_posix() for top in tops for path in (root / top).rglob("*") if path.is_file()]
    assert {name for name in here if "__pycache__" not in name and not name.endswith(".so")} <= set(names)
    if shutil.which("cc"):
        assert any(name.startswith("worldmodel/_kernel") for name in names)


def test_python_finds_the_wheel_and_not_the_checkout(programs, tmp_path):
    code = (
        "import configs, dreaming, envs, worldmodel\nprint(configs.packaged('logs', 'warthog')['task'])\n"
        "for package in (configs, dreaming, envs, worldmodel): print(package.__file__)"
    )
    done = run(programs / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    task, *files = done.stdout.split()
    assert task == "warthog"
    assert all(file.startswith(str(programs.parent)) for file in files), files


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_at_once(programs, tmp_path, command):
    run(programs / command, "--help", cwd=tmp_path)  # the first compiles
    before = time.monotonic()
    done = run(programs / command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command}")
    assert time.monotonic() - before < 3  # importing torch alone takes that long on a busy machine


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line(programs, tmp_path, command):
    done = run(programs / command, "--sed", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "--sed" in done.stderr, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("pybullet") is None, reason="PyBullet has no wheel for this Python")
def test_a_short_night_ends_in_a_report(programs, tmp_path):
    night = ("--task", "push-box", "--hours", "0.01", "--size", "debug", "--run", "R", "--wandb", "off")
    done = run(programs / "dream", *night, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "R" / "report" / "index.html").stat().st_size > 1000
