from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from configs import UserError, from_dict, suggest, to_dict


@dataclass(frozen=True)
class Layer:
    units: int = 8
    rate: float = 1e-3


@dataclass
class Config:
    name: str
    layer: Layer = field(default_factory=Layer)
    layers: list[Layer] = field(default_factory=list)
    ranges: dict[str, float | tuple[float, float]] = field(default_factory=dict)
    pair: tuple[int, int] = (1, 2)
    many: tuple[str, ...] = ()
    mode: Literal["blind", "estimate"] = "blind"
    path: Path | None = None
    fast: bool = False


def test_what_is_left_out_keeps_its_default():
    assert from_dict(Config, {"name": "a"}, "file") == Config("a")


def test_there_and_back_through_yaml():
    config = Config(
        "a",
        Layer(3, 0.5),
        [Layer(1), Layer(2)],
        {"floor_friction": (0.1, 0.8), "slope_deg": 2.0},
        (3, 4),
        ("x", "y"),
        "estimate",
        Path("a/b"),
        True,
    )
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config))), "file") == config


@pytest.mark.parametrize(
    ("written", "meant"), [("3e-4", 3e-4), ("1e3", 1000.0), ("5", 5.0), ("0.5", 0.5), (".inf", float("inf"))]
)
def test_numbers_as_yaml_reads_them(written, meant):
    assert from_dict(Layer, yaml.safe_load(f"rate: {written}"), "file").rate == meant


@pytest.mark.parametrize("written", ["200", "2e2", "200.0"])
def test_whole_numbers_as_yaml_reads_them(written):
    units = from_dict(Layer, yaml.safe_load(f"units: {written}"), "file").units
    assert units == 200 and type(units) is int


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({}, r"file: name is missing \(text\)"),
        ({"name": "a", "fats": True}, 'file: "fats" is unknown; did you mean "fast"'),
        ({"name": "a", "layer": {"unit": 3}}, 'file: layer: "unit" is unknown; did you mean "units"'),
        ({"name": "a", "layer": {"rate": "quick"}}, "file: layer: rate must be a number, not 'quick'"),
        ({"name": "a", "layer": 3}, "file: layer must be a mapping"),
        ({"name": "a", "layer": {"units": 1.5}}, "units must be a whole number, not 1.5"),
        ({"name": "a", "layer": {"units": True}}, "units must be a whole number, not True"),
        ({"name": "a", "layer": {"rate": True}}, "rate must be a number, not True"),
        ({"name": "a", "layer": {"rate": None}}, "rate must be a number, not nothing"),
        ({"name": "a", "layers": [{}, {"units": "x"}]}, r"layers\[1\]: units must be a whole number"),
        ({"name": "a", "layers": {"units": 1}}, "layers must be a list"),
        ({"name": "a", "ranges": {"mu": "slick"}}, "ranges.mu must be a number or .*, not 'slick'"),
        ({"name": "a", "ranges": {"mu": [1, 2, 3]}}, "ranges.mu must be"),
        ({"name": "a", "ranges": [1]}, "ranges must be a mapping"),
        ({"name": "a", "pair": [1, 2, 3]}, "pair must hold 2 values, not 3"),
        ({"name": "a", "mode": "blnid"}, 'mode: "blnid" is unknown; did you mean "blind"'),
        ({"name": "a", "path": 3}, "path must be a path or null, not 3"),
        ({"name": "a", "fast": "yes"}, "fast must be true or false, not 'yes'"),
        ({"name": 3}, "name must be text, not 3"),
        (["name"], "file must be a mapping"),
    ],
)
def test_a_mistake_names_its_key(mapping, words):
    with pytest.raises(UserError, match=words):
        from_dict(Config, mapping, "file")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("slipery", '"slipery" is unknown; did you mean "slippery"? There are: slippery, weak-motors'),
        ("weak_motors", '"weak_motors" is unknown; did you mean "weak-motors"? There are: slippery, weak-motors'),
        ("SLIPPERY", '"SLIPPERY" is unknown; did you mean "slippery"? There are: slippery, weak-motors'),
        ("xyz", '"xyz" is unknown. There are: slippery, weak-motors'),
    ],
)
def test_suggestions(name, line):
    assert suggest(name, ["slippery", "weak-motors"]) == line


def test_a_suggestion_from_nothing():
    assert suggest("a", []) == '"a" is unknown; there are none'
