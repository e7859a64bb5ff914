"""What users may import is what the packages say, sorted; everything else is private by name or by `__all__`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import types
from pathlib import Path

import pytest

import cosa_guard
import cosa_sdk

PACKAGES = (cosa_sdk, cosa_guard)
MODULES = sorted(
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)
# Modules behind the backend `transformers`, and the tasks of Inspect, cannot be imported without it: `make test` does
# without, `make test-full` not.
LIBRARY = [
    pytest.param(name, marks=pytest.mark.slow) if ".backends.torch_" in name or name.endswith(".inspect_tasks") else name
    for name in MODULES
    if not name.startswith("cosa_guard.cli")
]
each = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


def imported(package):
    """Names that the package's own module imports; submodules that Python binds besides are not among them."""
    tree = ast.parse(Path(package.__file__).read_text("utf-8"))
    imports = [
        node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) and node.module != "__future__"
    ]
    return {alias.asname or alias.name for node in imports for alias in node.names}


@each
def test_all_is_sorted_by_kind_and_name_and_without_doubles(package):
    def kind(name):
        return 0 if name.isupper() else 1 if name[0].isupper() else 2

    assert sorted(set(package.__all__), key=lambda name: (kind(name), name)) == list(package.__all__)


@each
def test_all_is_what_is_there(package):
    assert set(package.__all__) == imported(package)
    assert [] == [name for name in package.__all__ if not hasattr(package, name)]


@each
def test_nothing_else_is_there_but_submodules(package):
    others = {name: value for name, value in vars(package).items() if name not in package.__all__ and name[0] != "_"}

    assert [] == [name for name, value in others.items() if not isinstance(value, types.ModuleType)]


@each
def test_package_module_only_imports(package):
    source = Path(package.__file__).read_text("utf-8")

    assert [] == [line for line in source.splitlines() if line.startswith(("def ", "class ", "if ", "async "))]


@pytest.mark.parametrize("name", LIBRARY)
def test_module_says_what_is_public(name):
    module = importlib.import_module(name)

    # The checks of the conformance suite register themselves.
    registers = name.startswith("cosa_guard.testing.conformance.")
    assert name.rpartition(".")[2].startswith("_") or registers or module.__all__
    assert [] == [public for public in module.__all__ if not hasattr(module, public)]
    assert [] == [public for public in module.__all__ if public.startswith("_")]


@pytest.mark.parametrize("name", LIBRARY)
def test_what_is_public_is_documented(name):
    module = importlib.import_module(name)
    kinds = (type, types.FunctionType)
    own = [value for public in module.__all__ if isinstance(value := getattr(module, public), kinds)]

    assert module.__doc__
    assert [] == [value.__name__ for value in own if value.__module__ == name and not value.__doc__]


def test_compile_is_the_function_not_the_module():
    """`cosa_sdk.compile` is both: importing the submodule must not hide the function."""
    importlib.import_module("cosa_sdk.compile")

    assert callable(cosa_sdk.compile)
    assert callable(cosa_sdk.decide)
