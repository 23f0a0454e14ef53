"""YAML files: the user's own, and those that come with the package (`configs/<kind>/<name>.yaml`)."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from configs.errors import UserError, suggest

MOST_BYTES = 1 << 21
"""Of a YAML file: what is written by hand is far smaller."""
MOST_VALUES = 1_000_000


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping. Numbers written as `3e-4` come as text: `from_dict` turns them."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a YAML file")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file; give a YAML file") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _mapping(text, str(path))


def parse_yaml(text: str | bytes, where: str) -> Any:
    """What is written there; a UserError for what is no YAML, and for what would fill the memory or never end."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{where} is longer than {MOST_BYTES:,} bytes, far more than what is written in YAML by hand")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise UserError(f"{where} repeats itself by names of names: more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line} is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, OverflowError) as error:  # as of a date that is none
        raise UserError(f"{where} is not valid YAML: {str(error)[:120]}") from None
    except RecursionError:
        raise UserError(f"{where} is not valid YAML: it is nested too deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def packaged_names(kind: str) -> list[str]:
    """Names of the YAML files in `configs/<kind>/`, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _entries(kind) if entry.name.endswith(".yaml"))


def packaged(kind: str, name: str) -> dict[str, Any]:
    """The file `configs/<kind>/<name>.yaml`, wherever the package is installed."""
    names = packaged_names(kind)
    if name not in names:
        raise UserError(f"configs/{kind}: {suggest(name, names)}")
    text = resources.files("configs").joinpath(kind, f"{name}.yaml").read_text(encoding="utf-8")
    return _mapping(text, f"configs/{kind}/{name}.yaml")


def _entries(kind: str) -> list[Traversable]:
    folder = resources.files("configs").joinpath(kind)
    return list(folder.iterdir()) if folder.is_dir() else []


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path} does not exist, nor does its folder {path.parent}"
    siblings = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    there = f"that folder holds {', '.join(siblings)}" if siblings else "that folder holds no YAML file"
    return f"{path} does not exist; {there}"


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values stand there where each name is replaced by what it stands for; infinitely many in a circle."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [one for pair in below for one in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_values(one, known) for one in inner)
    return known[id(node)]


def _mapping(text: str, where: str) -> dict[str, Any]:
    data = parse_yaml(text, where)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{where} must hold a mapping (name: value), not a {type(data).__name__}")
    return data
