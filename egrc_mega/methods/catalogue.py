"""Finds the methods: every module of this folder is looked into, so a new method is a new file and nothing else."""

import importlib
import pkgutil

from egrc_mega import methods
from egrc_mega.methods.method import METHODS


def load_builtin() -> None:
    """Import every module of the folder; the classes in them join their families by being defined."""
    for module in pkgutil.iter_modules(methods.__path__):
        importlib.import_module(f"{methods.__name__}.{module.name}")


load_builtin()

__all__ = ["METHODS"]
