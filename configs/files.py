"""YAML files: the user's own, and those that come with the package (`configs/<kind>/<name>.yaml`)."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from configs.errors import UserError, suggest


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping. Numbers written as `3e-4` come as text: `from_dict` turns them."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file; give a YAML file") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _parse(text, str(path))


def packaged_names(kind: str) -> list[str]:
    """Names of the YAML files in `configs/<kind>/`, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _entries(kind) if entry.name.endswith(".yaml"))


def packaged(kind: str, name: str) -> dict[str, Any]:
    """The file `configs/<kind>/<name>.yaml`, wherever the package is installed."""
    names = packaged_names(kind)
    if name not in names:
        raise UserError(f"configs/{kind}: {suggest(name, names)}")
    text = resources.files("configs").joinpath(kind, f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, f"configs/{kind}/{name}.yaml")


def _entries(kind: str) -> list[Traversable]:
    folder = resources.files("configs").joinpath(kind)
    return list(folder.iterdir()) if folder.is_dir() else []


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path} does not exist, nor does its folder {path.parent}"
    siblings = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    there = f"that folder holds {', '.join(siblings)}" if siblings else "that folder holds no YAML file"
    return f"{path} does not exist; {there}"


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line} is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{where} must hold a mapping (name: value), not a {type(data).__name__}")
    return data
