import os

# Before torch is imported anywhere: the suite's tensors are tiny, and other processes share the machine.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("here", deadline=None, print_blob=True)
settings.load_profile("here")


@pytest.fixture(autouse=True)
def _own_home(request, tmp_path_factory, monkeypatch):
    """No test reads or writes what the user has fetched, but those that need the fetched encoders."""
    if request.node.get_closest_marker("encoders") is None:
        monkeypatch.setenv("MMOLRE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def tiny_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a tiny, randomly initialised RoBERTa (text) and Data2Vec-audio (audio), 16 wide, 2 layers."""
    from tiny_encoders import write_data2vec_audio, write_roberta

    folder = tmp_path_factory.mktemp("encoders")
    return {"text": write_roberta(folder / "roberta"), "audio": write_data2vec_audio(folder / "data2vec")}


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of synthetic utterances, all splits and sets of modalities in it; one row's sound is missing."""
    from tiny_corpus import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_encoders: dict[str, Path], tiny_corpus: Path):
    """A finished training run on ``tiny_corpus``, made with ``tiny_encoders``: the result of ``train``."""
    from mmolre.data.cache import FeatureCache
    from mmolre.train.run import train
    from tiny_corpus import corpus_recipe

    folder = tmp_path_factory.mktemp("run")
    return train(corpus_recipe(tiny_encoders), [tiny_corpus], folder / "run", cache=FeatureCache(folder / "features"))
