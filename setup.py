"""Puts the product's top-level files into the package: `sql/`, `dagster.yaml`, `workspace.yaml`, `examples/`.

In a checkout they lie where people look for them; `lead_coordinator.files` finds either place. The rest is in
pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).parent
PRODUCT_FILES = (
    "sql/*.sql",
    "dagster.yaml",
    "workspace.yaml",
    "examples/*.csv",
    "examples/*.py",
    "examples/*.yaml",
    "examples/feeds/*",
    "examples/site/**/*.*",
)


class BuildWithProductFiles(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # else the checkout itself is used
            self.copy_product_files()

    def copy_product_files(self) -> None:
        for pattern in PRODUCT_FILES:
            for source in sorted(TOP.glob(pattern)):
                target = Path(self.build_lib, "lead_coordinator", "_product", source.relative_to(TOP))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithProductFiles})
