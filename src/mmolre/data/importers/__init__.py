"""Importers: from a corpus as its owners hand it out to a manifest, one file per source.

An importer is ``import_X(source, out, **options) -> ImportSummary``. It reads the folder ``source`` and writes
``out/manifest.csv``, or ``out`` itself where that ends in .csv, .jsonl or .parquet. It raises
:class:`~mmolre.errors.UserError`, saying what it expected, where it finds nothing to use. Importing this package is
cheap: what an importer needs that is heavy, it imports when it runs.
"""

from collections.abc import Callable

from mmolre.data.importers._common import ImportSummary
from mmolre.data.importers.mosi import import_mosi
from mmolre.data.importers.ravdess import import_ravdess

__all__ = ["IMPORTERS", "ImportSummary", "import_mosi", "import_ravdess"]

IMPORTERS: dict[str, Callable[..., ImportSummary]] = {"mosi": import_mosi, "ravdess": import_ravdess}
"""By the name that ``mmolre import NAME`` takes."""
