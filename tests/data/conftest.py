import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of the real corpora; the test is skipped where there is none."""
    folder = Path(os.environ.get("MMOLRE_CORPORA") or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / "mosei" / "segments.csv").is_file():
        pytest.skip(f"no corpora in {folder} (set MMOLRE_CORPORA)")
    return folder
