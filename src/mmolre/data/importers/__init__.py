"""Importers: from a corpus as its owners hand it out to a manifest, one file per source.

An importer is ``import_X(sources, out, **options) -> ImportSummary`` (MOSI's and RAVDESS's take one folder). It writes
the manifest, ``out/manifest.csv`` or ``out`` itself where that ends in .csv, .jsonl or .parquet, its feature files, and
``provenance.json``. Where it finds nothing to use, it raises :class:`~mmolre.errors.UserError`, saying what it wants.
"""

from mmolre.data.importers._common import ImportSummary
from mmolre.data.importers.cmu_sdk import import_cmu_sdk
from mmolre.data.importers.crema_d import import_crema_d
from mmolre.data.importers.folder import import_folder
from mmolre.data.importers.iemocap import import_iemocap
from mmolre.data.importers.labelled_clips import import_ch_sims, import_mmml
from mmolre.data.importers.mag_bert import import_mag_bert
from mmolre.data.importers.meld import import_meld
from mmolre.data.importers.mmsa import import_mmsa
from mmolre.data.importers.mosi import import_mosi
from mmolre.data.importers.ravdess import import_ravdess
from mmolre.data.importers.table import TableOptions, import_csv
from mmolre.data.importers.vader import import_vader

__all__ = [
    "ImportSummary",
    "TableOptions",
    "import_ch_sims",
    "import_cmu_sdk",
    "import_crema_d",
    "import_csv",
    "import_folder",
    "import_iemocap",
    "import_mag_bert",
    "import_meld",
    "import_mmml",
    "import_mmsa",
    "import_mosi",
    "import_ravdess",
    "import_vader",
]
