"""From utterances to a table of features: nothing twice, one bad row stops nothing, a kill loses little."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_encoders
from mmolre.data.cache import FeatureCache, Features
from mmolre.encoders import extract as extract_module
from mmolre.encoders.audio import AudioEncoder
from mmolre.encoders.base import Encoder
from mmolre.encoders.extract import extract
from mmolre.encoders.text import TextEncoder
from mmolre.schema import Utterance


class Counter(Encoder):
    """An encoder that says how long its input is, and counts what it is asked for."""

    def __init__(self, modality: str, stop_after: int = 10**9):
        self.modality = modality  # type: ignore[misc]
        super().__init__("counter")
        self.fingerprint = modality * 8
        self.encoded: list[Any] = []
        self.stop_after = stop_after

    _options: dict[str, Any] = {}  # type: ignore[assignment]  # noqa: RUF012

    def check(self, item: Any) -> str | None:
        return "bad" if self.modality == "text" and item == "bad" else None

    def encode(self, items: Sequence[Any]) -> list[Features]:
        if len(self.encoded) + len(items) > self.stop_after:
            raise KeyboardInterrupt
        self.encoded += items
        return [Features(np.full((len(item), 1, 2), len(item), np.float16), len(item) > 8) for item in items]


def texts(*contents: str | None) -> list[Utterance]:
    return [Utterance(id=f"u{i}", text=text) for i, text in enumerate(contents)]


def write_wave(path: Path, seconds: float, seed: int = 0) -> Path:
    samples = np.random.default_rng(seed).integers(-3000, 3000, int(16000 * seconds), dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(params=[True, False], ids=["cached", "in memory"])
def cache(request, tmp_path):
    return FeatureCache(tmp_path / "cache") if request.param else None


def test_a_table_of_features(cache):
    table = extract(texts("a", "bb", None, "a very long text"), {"text": Counter("text")}, cache)
    assert len(table) == 4
    assert [f and f.values.shape[0] for f in (table.get(i, "text") for i in range(4))] == [1, 2, None, 16]
    assert table.get("u1", "text").values.tolist() == [[[2, 2]], [[2, 2]]]  # type: ignore[union-attr]
    assert [table.get(i, "text").truncated for i in (0, 3)] == [False, True]  # type: ignore[union-attr]
    assert table.get(0, "audio") is None
    assert table.failures == []
    with pytest.raises(KeyError):
        table.get("nobody", "text")


def test_equal_contents_are_encoded_once(cache):
    encoder = Counter("text")
    table = extract(texts("a", "b", "a", "a"), {"text": encoder}, cache)
    assert sorted(encoder.encoded) == ["a", "b"]
    assert all(table.get(i, "text") is not None for i in range(4))


def test_a_refused_text_is_reported_and_stops_nothing(cache):
    table = extract(texts("good", "bad", "fine", "bad"), {"text": Counter("text")}, cache)
    assert [tuple(failure) for failure in table.failures] == [("u1", "text", "bad"), ("u3", "text", "bad")]
    assert [table.get(i, "text") is not None for i in range(4)] == [True, False, True, False]


def test_a_second_run_encodes_nothing(tmp_path):
    utterances = texts("a", "bb", "ccc", "bad")
    extract(utterances, {"text": Counter("text")}, FeatureCache(tmp_path))
    refuses = Counter("text", stop_after=0)
    table = extract(utterances, {"text": refuses}, FeatureCache(tmp_path))
    assert [f and f.values.shape[0] for f in (table.get(i, "text") for i in range(4))] == [1, 2, 3, None]
    encoder = Counter("text")
    extract([*utterances, *texts("new")], {"text": encoder}, FeatureCache(tmp_path))
    assert encoder.encoded == ["new"]


def test_a_kill_loses_only_the_unfinished_shard(tmp_path, monkeypatch):
    monkeypatch.setitem(extract_module._CHUNK, "text", 10)
    utterances = texts(*(f"text {i}" for i in range(45)))
    with pytest.raises(KeyboardInterrupt):
        extract(utterances, {"text": Counter("text", stop_after=25)}, FeatureCache(tmp_path))
    encoder = Counter("text")
    table = extract(utterances, {"text": encoder}, FeatureCache(tmp_path))
    assert encoder.encoded == [f"text {i}" for i in range(20, 45)]
    assert all(table.get(i, "text") is not None for i in range(45))


def test_progress_counts_what_is_left_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(extract_module._CHUNK, "text", 2)
    extract(texts("a"), {"text": Counter("text")}, FeatureCache(tmp_path))
    calls = []
    extract(
        texts("a", "b", "c", "d"),
        {"text": Counter("text")},
        FeatureCache(tmp_path),
        progress=lambda *a: calls.append(a),
    )
    assert calls == [("text", 0, 3), ("text", 2, 3), ("text", 3, 3)]


def test_broken_and_missing_recordings_stop_nothing(tmp_path, cache):
    good = write_wave(tmp_path / "good.wav", 0.5)
    (tmp_path / "not.wav").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    paths = [good, tmp_path / "none.wav", tmp_path / "not.wav", tmp_path / "empty.wav", tmp_path,
             write_wave(tmp_path / "short.wav", 0.01), write_wave(tmp_path / "long.wav", 61)]  # fmt: skip
    utterances = [Utterance(id=path.name, audio=path) for path in paths] + [Utterance(id="none", text="words")]
    table = extract(utterances, {"audio": Counter("audio")}, cache)
    assert table.get("good.wav", "audio").values.shape[0] == 8000  # type: ignore[union-attr]
    assert {failure.id for failure in table.failures} == {path.name for path in paths[1:]}
    for failure in table.failures:
        assert failure.modality == "audio"
        assert failure.id in failure.reason
        assert "\n" not in failure.reason
        assert table.get(failure.id, "audio") is None


def test_start_and_end_cut_only_where_they_are_meant_to(tmp_path, cache):
    path = write_wave(tmp_path / "a.wav", 2)
    utterances = [
        Utterance(id="cut", audio=path, start=0.5, end=1.0, cut=True),
        Utterance(id="other", audio=path, start=1.0, end=2.0, cut=True),
        Utterance(id="whole", audio=path, start=100.0, end=101.0, cut=False),
        Utterance(id="same", audio=path, start=102.0, end=103.0, cut=False),
    ]
    encoder = Counter("audio")
    table = extract(utterances, {"audio": encoder}, cache)
    lengths = [table.get(i, "audio").values.shape[0] for i in range(4)]  # type: ignore[union-attr]
    assert lengths == [8000, 16000, 32000, 32000]
    assert len(encoder.encoded) == 3


def test_a_renamed_recording_is_not_encoded_again_and_a_changed_one_is(tmp_path):
    path = write_wave(tmp_path / "a.wav", 0.2)
    cache = FeatureCache(tmp_path / "cache")
    extract([Utterance(id="a", audio=path)], {"audio": Counter("audio")}, cache)
    moved = path.rename(tmp_path / "b.wav")
    extract([Utterance(id="a", audio=moved)], {"audio": Counter("audio", stop_after=0)}, cache)
    write_wave(moved, 0.3, seed=1)
    encoder = Counter("audio")
    extract([Utterance(id="a", audio=moved)], {"audio": encoder}, cache)
    assert [len(sound) for sound in encoder.encoded] == [4800]


def test_both_modalities_with_real_encoders_that_are_not_loaded_again(tmp_path):
    text = str(tiny_encoders.write_roberta(tmp_path / "roberta"))
    audio = str(tiny_encoders.write_data2vec_audio(tmp_path / "data2vec"))
    sound = write_wave(tmp_path / "a.wav", 1)
    utterances = [
        Utterance(id="both", text="a good movie", audio=sound),
        Utterance(id="text", text="bad"),
        Utterance(id="audio", audio=sound),
    ]

    def encoders() -> dict[str, Encoder]:
        return {"text": TextEncoder(text, layers=(0, -1)), "audio": AudioEncoder(audio, stride=4)}

    first = extract(utterances, encoders(), FeatureCache(tmp_path / "cache"))
    again = encoders()
    second = extract(utterances, again, FeatureCache(tmp_path / "cache"))
    in_memory = extract(utterances, encoders(), None)
    assert not [encoder for encoder in again.values() if "module" in vars(encoder)]
    for row in range(3):
        for modality in ("text", "audio"):
            tables = [table.get(row, modality) for table in (first, second, in_memory)]
            if modality not in utterances[row].modalities:
                assert tables == [None] * 3
            else:
                assert all(np.array_equal(tables[0].values, f.values) for f in tables)  # type: ignore[union-attr]
    assert first.get("both", "text").values.shape == (5, 2, 16)  # type: ignore[union-attr]
    assert first.get("audio", "audio").values.shape == (13, 1, 16)  # type: ignore[union-attr]
