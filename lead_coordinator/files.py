"""Where the product's own files are: `sql/`, `dagster.yaml`, `workspace.yaml`, `examples/`.

In a checkout they lie at the top level, where people look for them. `setup.py` copies them into the wheel as
`lead_coordinator/_product/`, so an installed package has the same files under the same names.
"""

from __future__ import annotations

from pathlib import Path

from lead_coordinator.errors import MissingFile

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (_PACKAGE / "_product", _PACKAGE.parent)


def product_file(name: str) -> Path:
    """Absolute path of a file or folder of the product, e.g. `product_file("sql/database-schema.sql")`.

    Raises `MissingFile` where the installation lacks it.
    """
    for root in _ROOTS:
        path = root / name
        if path.exists():
            return path
    raise MissingFile(
        f"{name} is missing: looked in {' and '.join(str(root) for root in _ROOTS)}; reinstall the package."
    )
