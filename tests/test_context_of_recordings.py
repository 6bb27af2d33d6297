"""Models that read utterances in the light of their recordings: training, evaluation, files, analysis."""

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import mmolre
from mmolre import UserError
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import FailedRow
from mmolre.data.manifest import read_manifest
from mmolre.evaluate.context import Context
from mmolre.evaluate.run import evaluate
from mmolre.evaluate.speaker import Speakers
from mmolre.predict_file import predict_file
from mmolre.predictor import Predictor
from mmolre.recordings.cut import Cut
from mmolre.recordings.score import score
from mmolre.schema import Utterance
from mmolre.train.run import train
from tiny_corpus import MISSING, corpus_recipe, write_rows, write_videos

STRONG = Context(((0.3, -0.4, 0.9), *(((-1) ** v * 0.5, -0.3, 1.2) for v in range(6))))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The tiny corpus, each split in three videos; the last two rows of a split belong to none."""
    sizes = {"train": 20, "valid": 8, "test": 8}

    def video_of(split: str, i: int) -> str:
        return f"{split}-video-{i % 3}" if i < sizes[split] - 2 else ""

    return write_videos(tmp_path_factory.mktemp("videos"), video_of)


@pytest.fixture(scope="module")
def predictor(tiny_run):
    bundle = mmolre.load(tiny_run.folder).bundle
    limits = {key: replace(t, macro_f1=(0.1,) * 6) for key, t in bundle.decision.thresholds.items()}
    decision = replace(bundle.decision, context=STRONG, context_thresholds=limits)
    return Predictor(replace(bundle, decision=decision))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_an_utterance_is_of(tmp_path):
    sound = tmp_path / "a.wav"
    assert Utterance("a", video_id="v", audio=sound, cut=True).recording == "v"
    assert Utterance("a", audio=sound, cut=True, start=0.0, end=1.0).recording == str(sound)
    assert Utterance("a", audio=sound).recording is None
    assert Utterance("a", text="good", start=0.0, end=1.0).recording is None


def test_a_file_is_read_in_context_whatever_its_order(predictor, corpus, tmp_path):
    manifest, rows = corpus
    counts = predict_file(predictor, [manifest], tmp_path / "out.jsonl")
    found = lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in rows if row["id"] != MISSING]
    assert [row["id"] for row in lines(counts.errors)] == [MISSING]
    utterances = [u for u in read_manifest(manifest) if u.id != MISSING]
    own = list(predictor.predict_many(utterances))
    expected = predictor.in_context(own, [u.recording for u in utterances])
    assert found == [p.to_json() for p in expected]
    changed = [(p.sentiment, p.emotions) != (q.sentiment, q.emotions) for p, q in zip(own, expected, strict=True)]
    assert changed == [u.recording is not None for u in utterances]
    everyone = read_manifest(manifest)  # and with the row that failed
    streamed = list(predictor.predict_many(everyone))
    read = predictor.in_context(streamed, [u.recording for u in everyone], [u.speaker for u in everyone])
    assert [row for row in read if not isinstance(row, FailedRow)] == expected
    assert [row.id for row in read] == [u.id for u in everyone]
    assert all(p.present == [name for name, x in p.emotions.items() if x >= 0.1] for p in expected)
    mixed = random.Random(0).sample(rows, len(rows))
    predict_file(predictor, [write_rows(manifest.with_name("mixed.csv"), mixed)], tmp_path / "mixed.jsonl")
    of_mixed = {row["id"]: row for row in lines(tmp_path / "mixed.jsonl")}
    for row in found:
        assert of_mixed[row["id"]]["sentiment"] == pytest.approx(row["sentiment"], abs=2e-4)
        assert of_mixed[row["id"]]["emotions"] == pytest.approx(row["emotions"], abs=2e-4)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".jsonl"]


def test_acted_voices_are_read_each_on_its_own(predictor, corpus, tmp_path):
    decision = predictor.bundle.decision
    calibration = decision.calibration | {"audio": replace(decision.calibration["audio"], exclusive=True)}
    predictor = Predictor(replace(predictor.bundle, decision=replace(decision, calibration=calibration)))
    rows = [
        row | {"text": ""} if i % 2 and row["audio"] else row for i, row in enumerate(corpus[1]) if row["id"] != MISSING
    ]
    manifest = write_rows(corpus[0].with_name("voices.csv"), rows)
    predict_file(predictor, [manifest], tmp_path / "out.jsonl")
    utterances = read_manifest(manifest)
    predictions = list(predictor.predict_many(utterances))
    own = [p.to_json() for p in predictions]
    voices = [u.modalities == ("audio",) for u in utterances]
    found = lines(tmp_path / "out.jsonl")
    kept = [(a["sentiment"], a["emotions"]) == (b["sentiment"], b["emotions"]) for a, b in zip(own, found, strict=True)]
    assert found == [p.to_json() for p in predictor.in_context(predictions, [u.recording for u in utterances])]
    read = Counter(u.recording for voice, u in zip(voices, utterances, strict=True) if not voice)
    assert any(voices)
    assert kept == [
        voice or u.recording is None or read[u.recording] == 1 for voice, u in zip(voices, utterances, strict=True)
    ]


def test_acted_voices_are_read_by_speaker_in_files_and_evaluation(predictor, corpus, tmp_path):
    decision = predictor.bundle.decision
    calibration = decision.calibration | {"audio": replace(decision.calibration["audio"], exclusive=True)}
    means = [[2.0 * (c == e) - 1 for e in range(6)] for c in range(7)]
    speakers = Speakers.from_json({"means": means, "within": np.eye(6).tolist()})
    decision = replace(decision, calibration=calibration, speakers={"audio": speakers})
    predictor = Predictor(replace(predictor.bundle, decision=decision))
    rows = [row | {"text": "", "speaker": "AB"[i % 2]} for i, row in enumerate(corpus[1]) if row["audio"]]
    rows = [row | {"video_id": ""} for row in rows if row["id"] != MISSING]
    manifest = write_rows(corpus[0].with_name("by-speaker.csv"), rows)
    utterances = read_manifest(manifest)
    counts = predict_file(predictor, [manifest], tmp_path / "out.jsonl")
    found = lines(tmp_path / "out.jsonl")
    assert counts.together == len(found) == len(rows)
    own = list(predictor.predict_many(utterances))
    recordings, names = [u.recording for u in utterances], [u.speaker for u in utterances]
    assert set(recordings) == {None}
    assert found == [p.to_json() for p in predictor.in_context(own, recordings, names)]
    assert all(a["emotions"] != b.emotions for a, b in zip(found, own, strict=True))
    assert [p.emotions for p in predictor.in_context(own, recordings)] == [p.emotions for p in own]  # of unknown ones
    result = evaluate(predictor.bundle, [manifest], "train")
    train_rows = [row for row in rows if row["split"] == "train"]
    of_train = write_rows(manifest.with_name("train.csv"), train_rows)
    predict_file(predictor, [of_train], tmp_path / "train.jsonl")
    predicted = {row["id"]: row["emotions"] for row in lines(tmp_path / "train.jsonl")}
    for u, emotions in zip(result.utterances, result.emotions, strict=True):
        assert list(predicted[u.id].values()) == pytest.approx(emotions, abs=1e-3)


def test_the_command_says_that_it_reads_in_context(predictor, tiny_run, corpus, tmp_path, monkeypatch, capsys):
    from mmolre import cli

    together = sum(u.recording is not None for u in read_manifest(corpus[0]) if u.id != MISSING)
    for made, said in ((predictor, True), (mmolre.load(tiny_run.folder), False)):
        monkeypatch.setattr("mmolre.predictor.load", lambda *_, made=made, **__: made)
        arguments = ["mmolre", "predict", "--data", str(corpus[0]), "--out", str(tmp_path / "out.jsonl")]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == cli.ROWS_FAILED  # one row's sound is missing
        assert (f", {together} read with others of their recordings or speakers" in capsys.readouterr().out) == said


def test_one_utterance_is_as_without_context(predictor, tiny_run):
    plain = mmolre.load(tiny_run.folder)
    assert predictor.predict(text="so bad") == plain.predict(text="so bad")
    assert plain.in_context([p := plain.predict(text="so bad")], ["a"]) == [p]
    assert predictor.in_context([], []) == []


def test_evaluation_is_of_what_is_predicted_and_says_what_each_is_on_its_own(predictor, tiny_run, corpus, tmp_path):
    manifest, _ = corpus
    result = evaluate(predictor.bundle, [manifest], "test")
    predict_file(predictor, [manifest], tmp_path / "out.jsonl")
    predicted = {row["id"]: row for row in lines(tmp_path / "out.jsonl")}
    for u, sentiment, emotions in zip(result.utterances, result.sentiment, result.emotions, strict=True):
        assert predicted[u.id]["sentiment"] == pytest.approx(np.clip(sentiment, -3, 3), abs=2e-4)
        assert list(predicted[u.id]["emotions"].values()) == pytest.approx(list(emotions), abs=2e-4)
    plain = evaluate(mmolre.load(tiny_run.folder).bundle, [manifest], "test").metrics
    assert result.metrics["on_its_own"] == {task: plain[task] for task in ("sentiment", "emotion")}
    assert result.metrics["sentiment"] != plain["sentiment"]
    assert "on_its_own" not in plain


def test_what_has_no_label_is_read_with_the_others_in_evaluation_as_in_use(predictor, corpus, tmp_path):
    manifest, rows = corpus
    labels = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
    of_test = [row["id"] for row in rows if row["split"] == "test"]
    bare = [row | dict.fromkeys(labels, "") if row["id"] in of_test[1:] else row for row in rows]
    path = write_rows(manifest.with_name("bare.csv"), bare)
    whole = evaluate(predictor.bundle, [manifest], "test")
    part = evaluate(predictor.bundle, [path], "test")
    assert [u.id for u in part.utterances] == of_test[:1]
    assert len(part.modalities) == len(part.sentiment) == len(part.emotions) == 1
    place = [u.id for u in whole.utterances].index(of_test[0])
    assert part.sentiment[0] == pytest.approx(whole.sentiment[place], abs=1e-4)
    np.testing.assert_allclose(part.emotions[0], whole.emotions[place], atol=1e-4)
    own = predictor.bundle.decision
    alone = evaluate(replace(predictor.bundle, decision=replace(own, context=None)), [path], "test")
    assert abs(alone.sentiment[0] - part.sentiment[0]) > 1e-3  # reading with others does change it


def test_where_nothing_labelled_can_be_read_nothing_is_scored(predictor, tmp_path):
    rows = [{"id": f"u{i}", "split": "test", "text": "so good", "sentiment": "", "audio": ""} for i in range(3)]
    gone = [{"audio": "gone-too.wav"}, {"audio": "gone.wav", "sentiment": 1}, {}]
    manifest = write_rows(tmp_path / "m.csv", [row | lost for row, lost in zip(rows, gone, strict=True)])
    with pytest.raises(UserError, match=r"test: labelled for sentiment .*, none of the 1 rows .* first: .*gone\.wav"):
        evaluate(predictor.bundle, [manifest], "test")


def test_training_fits_it_and_learning_is_the_same(tiny_encoders, tiny_run, corpus, tmp_path):
    manifest, _ = corpus
    cache = FeatureCache(tmp_path / "features")
    runs = {}
    for context in ("none", "recording"):
        recipe = corpus_recipe(tiny_encoders, epochs=1).model_copy(update={"context": context})
        runs[context] = train(recipe, [manifest], tmp_path / context, cache=cache).folder
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in runs.values()]
    assert weights[0] == weights[1]
    plain, together = (mmolre.load(folder).bundle.decision for folder in runs.values())
    assert plain.context is None
    assert together.context is not None
    assert together.calibration == plain.calibration
    valid = json.loads((runs["recording"] / "metrics-valid.json").read_text())
    assert (
        valid["sentiment"] == evaluate(mmolre.load(runs["recording"]).bundle, [manifest], "valid").metrics["sentiment"]
    )


def test_a_recording_that_is_analysed_is_one(tiny_run, predictor, monkeypatch):
    class Silence:
        def piece(self, start, end):
            return np.zeros(0, np.float32)

    texts = ["so bad", "good", "so very good", "bad movie"]  # the second is too little to be scored
    cuts = [Cut(float(i), i + 1.0, text) for i, text in enumerate(texts)]
    plain = score(mmolre.load(tiny_run.folder), cuts, Silence())  # type: ignore[arg-type]
    together = score(predictor, cuts, Silence())  # type: ignore[arg-type]
    rows = [i for i, moment in enumerate(together) if moment.scored]
    assert rows == [0, 2, 3]
    own = [predictor.predict(text=texts[i]) for i in rows]
    for i, expected in zip(rows, predictor.in_context(own, ["a"] * len(own)), strict=True):
        after = together[i]
        assert after.sentiment == pytest.approx(expected.sentiment, abs=2e-4)
        assert after.emotions == pytest.approx(expected.emotions, abs=2e-4)
        assert (after.present, after.top) == (expected.present, expected.top)
        assert after.emotions != plain[i].emotions
        assert after.words == plain[i].words
