"""Imports all of the suite: what processes that `tests.forked` starts have from the beginning."""

import importlib
import pkgutil

import datamodules
import textseg

for package in (textseg, datamodules):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
