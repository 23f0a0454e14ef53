"""Configuration as data: YAML files to checked dataclasses, and the one kind of error a user should ever see."""

from configs.command import parse_arguments, run_command
from configs.dataclass import from_dict, to_dict
from configs.errors import UserError, check_seed, suggest
from configs.files import load_yaml, packaged, packaged_names, parse_yaml

__all__ = [
    "UserError",
    "check_seed",
    "from_dict",
    "load_yaml",
    "parse_yaml",
    "packaged",
    "packaged_names",
    "parse_arguments",
    "run_command",
    "suggest",
    "to_dict",
]
