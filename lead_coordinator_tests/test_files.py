"""The product's own files are found in a checkout, and reach the wheel under the same names."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lead_coordinator
from lead_coordinator import files
from lead_coordinator.database.deploy import SQL_FILES
from lead_coordinator.errors import MissingFile
from lead_coordinator.files import product_file

TOP = Path(lead_coordinator.__file__).resolve().parents[1]
PRODUCT = [*SQL_FILES, "dagster.yaml", "workspace.yaml", "examples/topics.csv"]


@pytest.mark.parametrize("name", PRODUCT)
def test_a_checkout_has_every_file_of_the_product(name: str) -> None:
    assert product_file(name).is_file()


def test_a_missing_file_is_named_with_where_it_was_looked_for() -> None:
    with pytest.raises(MissingFile, match=r"sql/nothing\.sql is missing: looked in .*; reinstall"):
        product_file("sql/nothing.sql")


def test_the_build_puts_every_file_of_the_product_into_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("setuptools", reason="this environment has no setuptools to build with")
    package = tmp_path / "lead_coordinator"
    build = _setup_module(monkeypatch).BuildWithProductFiles
    command = build.__new__(build)
    command.build_lib = str(tmp_path)
    command.editable_mode = False
    command.copy_product_files()
    monkeypatch.setattr(files, "_ROOTS", (package / "_product",))
    for name in PRODUCT:
        assert product_file(name).read_bytes() == (TOP / name).read_bytes()


def _setup_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module; its call of setup() does nothing meanwhile."""
    import setuptools

    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    spec = importlib.util.spec_from_file_location("lead_coordinator_setup", TOP / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("lead_coordinator_setup", None)
    return module
