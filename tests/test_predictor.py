import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmolre
from mmolre import EMOTIONS, Prediction, Predictor, UserError, Utterance
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import FailedRow
from mmolre.data.feature_file import write_feature_file
from mmolre.data.manifest_write import write_manifest
from mmolre.evaluate.thresholds import EmotionThresholds
from mmolre.predict_file import predict_file
from mmolre.predictor import CHUNK
from tiny_corpus import write_wave


@pytest.fixture(scope="module")
def predictor(tiny_run) -> Predictor:
    return mmolre.load(tiny_run.folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_wave(tmp_path_factory.mktemp("sound") / "a.wav", 300, rate=8000)


@pytest.mark.parametrize("given", [("text",), ("audio",), ("text", "audio")])
def test_one_utterance(predictor, sound, given):
    kwargs = {m: value for m, value in (("text", "i love this movie"), ("audio", sound)) if m in given}
    content = json.loads(json.dumps(predictor.predict(**kwargs).to_json()))
    assert list(content) == ["id", "sentiment", "emotions", "present", "top", "modalities", "truncated"]
    assert -3 <= content["sentiment"] <= 3
    assert list(content["emotions"]) == list(EMOTIONS)
    assert all(0 <= p <= 1 for p in content["emotions"].values())
    assert set(content["present"]) <= set(EMOTIONS)
    assert content["top"] in (*EMOTIONS, None)
    assert content["modalities"] == list(given)
    assert content["truncated"] is False


def test_each_modality_matters(predictor, sound):
    words = predictor.predict(text="i love this movie")
    assert words != predictor.predict(text="so bad")
    assert words.emotions != predictor.predict(text="i love this movie", audio=str(sound)).emotions
    assert words == predictor.predict(text="i love this movie")


def test_a_text_beyond_the_window_is_cut_and_flagged(predictor):
    short, long = "good " * 6, "good " * 10_000
    assert not predictor.predict(text=short).truncated
    assert predictor.predict(text=long).truncated
    assert predictor.predict(text=long).emotions == predictor.predict(text=short).emotions


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "nothing to predict from: give text, audio, or both"),
        ({"text": ""}, "the text is empty"),
        ({"text": " \n"}, "the text is empty"),
        ({"audio": "no/such.wav"}, "no/such.wav: No such file or directory"),
        ({"text": "good", "audio": "no/such.wav"}, "no/such.wav"),
        ({"audio": __file__}, "test_predictor.py"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(predictor, given, reason):
    with pytest.raises(UserError) as error:
        predictor.predict(**given)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_sound_too_short_or_too_long(predictor, tmp_path):
    with pytest.raises(UserError, match=r"0\.01|10(\.0)? ms"):
        predictor.predict(audio=write_wave(tmp_path / "short.wav", 300, 0.01))
    with pytest.raises(UserError, match="60 s"):
        predictor.predict(audio=write_wave(tmp_path / "long.wav", 300, 61, rate=2000))


def many(n: int, sound: Path) -> list[Utterance]:
    """Of every kind; each 50th is broken."""
    texts = ("i love this movie", "bad", "so very good and so very bad and the movie", "not good")
    rows = []
    for i in range(n):
        text = f"{texts[i % 4]} {'very ' * (i % 5)}".strip() if i % 3 != 2 else None
        audio = sound if i % 3 != 1 else None
        if i % 50 == 0:
            audio = sound.parent / f"gone-{i}.wav"
        rows.append(Utterance(f"row {i}", text, audio, row=f"m.csv:{i + 2}"))
    return rows


def test_a_file_may_be_named_by_text(predictor, sound):
    assert next(iter(predictor.predict_many([Utterance("a", audio=str(sound))]))) == next(
        iter(predictor.predict_many([Utterance("a", audio=sound)]))
    )


def test_a_device_that_is_not_there(tiny_run):
    with pytest.raises(UserError, match="the device meta cannot be used here"):
        mmolre.load(tiny_run.folder, device="meta")


def test_a_bad_row_is_told_before_anything_is_predicted(predictor, tmp_path, monkeypatch):
    (tmp_path / "m.csv").write_text("id,text,sentiment\n" + "".join(f"{i},good,0\n" for i in range(3)) + "x,bad,9\n")
    monkeypatch.setattr(Predictor, "predict_many", lambda *_: pytest.fail("began"))
    with pytest.raises(UserError, match=r"m\.csv:5: sentiment is 9"):
        predict_file(predictor, [tmp_path / "m.csv"], tmp_path / "out.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]


@pytest.mark.parametrize(
    ("name", "out"),
    [("voice.ogg", "voice.ogg"), ("voice.errors.jsonl", "voice.jsonl"), ("f.safetensors", "f.safetensors")],
)
def test_what_a_manifest_names_is_not_overwritten(predictor, tmp_path, name, out):
    write_feature_file(tmp_path / "f.safetensors", iter([("a", np.zeros((1, 2), np.float32))]))
    audio = tmp_path / ("voice.wav" if name.startswith("f") else name)
    audio.write_bytes(b"a recording")
    rows = [Utterance("a", "good", features={"f": tmp_path / "f.safetensors"}), Utterance("b", audio=audio)]
    write_manifest(tmp_path / "m.csv", rows)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=f"{name} is to be read, and would be overwritten: give another --out"):
        predict_file(predictor, [tmp_path / "m.csv"], tmp_path / out)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_many_keep_their_order_and_failures_their_place(predictor, sound, tmp_path):
    rows = many(300, sound)
    results = list(predictor.predict_many(iter(rows), FeatureCache(tmp_path)))
    assert [result.id for result in results] == [row.id for row in rows]
    for i, (row, result) in enumerate(zip(rows, results, strict=True)):
        if i % 50 == 0:
            assert isinstance(result, FailedRow)
            assert result.row == row.row
            assert f"gone-{i}.wav" in result.reason
        else:
            assert isinstance(result, Prediction)
            assert tuple(result.modalities) == row.modalities
    for i in (1, 2, 3, 131, 299):  # alone as in company
        alone = predictor.predict(text=rows[i].text, audio=rows[i].audio)
        result = results[i]
        assert isinstance(result, Prediction)
        assert result.sentiment == pytest.approx(alone.sentiment, abs=1e-4)
        assert result.emotions == pytest.approx(alone.emotions, abs=1e-4)
        assert (result.present, result.top, result.truncated) == (alone.present, alone.top, alone.truncated)


def test_bounded_memory(predictor):
    """Only a chunk is drawn from the source before the first result is there."""
    drawn = []

    def source():
        for i in range(3 * CHUNK):
            drawn.append(i)
            yield Utterance(str(i), "good")

    stream = predictor.predict_many(source())
    assert next(stream).id == "0"
    assert len(drawn) == CHUNK
    for _ in range(CHUNK):
        next(stream)
    assert len(drawn) == 2 * CHUNK


def test_a_row_with_nothing_that_the_model_reads(tiny_run):
    bundle = mmolre.load(tiny_run.folder).bundle
    bundle.encoders.pop("audio")
    nothing, both = Predictor(bundle).predict_many(
        [Utterance("a", None, Path("a.wav"), row="m:2"), Utterance("b", "good", Path("a.wav"))]
    )
    assert nothing == FailedRow("a", "m:2", "the utterance has no text, which is all that is read here")
    assert isinstance(both, Prediction)
    assert both.modalities == ["text"]


def test_present_and_top_follow_the_thresholds_of_the_set(predictor, sound, monkeypatch):
    probabilities = predictor.predict(text="good").emotions
    best = max(probabilities, key=probabilities.__getitem__)
    low, high = EmotionThresholds((0,) * 6, (0,) * 6, 0, 0, 0), EmotionThresholds((1,) * 6, (1,) * 6, 1, 1, 1)
    thresholds = predictor.bundle.decision.thresholds
    monkeypatch.setitem(thresholds, "text", low)
    monkeypatch.setitem(thresholds, "text+audio", high)
    found = predictor.predict(text="good")
    assert (found.present, found.top) == (list(EMOTIONS), best)
    found = predictor.predict(text="good", audio=sound)
    assert (found.present, found.top) == ([], None)
    monkeypatch.setitem(thresholds, "text", high)
    found = predictor.predict(text="good")
    assert (found.present, found.top) == ([], None)


def test_sentiment_is_clipped_to_its_range(tiny_run):
    predictor = mmolre.load(tiny_run.folder)
    for bias, expected in ((50.0, 3.0), (-50.0, -3.0)):
        predictor.bundle.model.heads["sentiment"].out.bias.data.fill_(bias)  # type: ignore[union-attr]
        assert predictor.predict(text="good").sentiment == expected


def test_late_fusion_is_between_what_the_modalities_say_alone(tiny_run, sound):
    bundle = mmolre.load(tiny_run.folder).bundle
    late = Predictor(replace(bundle, decision=replace(bundle.decision, late=True)))
    words, voice = late.predict(text="so bad").emotions, late.predict(audio=sound).emotions
    both = late.predict(text="so bad", audio=sound).emotions
    for name, p in both.items():
        assert min(words[name], voice[name]) - 1e-4 <= p <= max(words[name], voice[name]) + 1e-4


@pytest.mark.parametrize("task", ["sentiment", "emotion"])
def test_a_model_of_one_task(tiny_run, task):
    bundle = mmolre.load(tiny_run.folder).bundle
    config = bundle.model.config.model_copy(update={"tasks": (task,)})
    found = Predictor(replace(bundle, model=mmolre.MMoLRE(config).eval())).predict(text="good")
    if task == "sentiment":
        assert (found.emotions, found.present, found.top) == ({}, [], None)
        assert found.sentiment is not None
    else:
        assert found.sentiment is None
        assert len(found.emotions) == 6


def test_prediction_starts_without_what_only_training_needs(tiny_run):
    code = (
        "import sys, mmolre\n"
        f"print(mmolre.load({str(tiny_run.folder)!r}).predict(text='good').modalities)\n"
        "print(sorted({'sklearn', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['text']", "[]"]


def test_utterances_may_bear_the_same_id(tiny_run):
    predictor = mmolre.load(tiny_run.folder)
    texts = ["i love this movie", "i hate this movie", "so bad"]
    got = list(predictor.predict_many(Utterance("same", text) for text in texts))
    assert [p.sentiment for p in got] == [predictor.predict(text=text).sentiment for text in texts]
    assert list(predictor.predict_many([])) == []
