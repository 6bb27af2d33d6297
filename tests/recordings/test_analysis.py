import csv
import errno
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import mmolre
from mmolre import Timeline, UserError
from mmolre.data.cache import FeatureCache
from mmolre.data.media import duration
from mmolre.encoders.text import TextEncoder
from mmolre.recordings.analysis import Analyzer
from mmolre.recordings.batch import analyze_all, find_recordings, find_transcript
from mmolre.recordings.display import _in_short
from mmolre.recordings.report import escape, render
from mmolre.recordings.sound import Sound, write_mp3
from mmolre.recordings.summary import disagreements, strongest, summarise
from mmolre.recordings.timeline import COLUMNS, read_timeline
from mmolre.recordings.transcript_file import read_transcript
from mmolre.train.recipe import Recipe
from mmolre.train.run import train
from tiny_corpus import corpus_recipe, write_wave

FILES = {"timeline.json", "timeline.csv", "subtitles.vtt", "report.html"}
EVIL = '</script><img src=x onerror="alert(1)">'
BOB = f"Bob {EVIL}"
LINES = [  # of at most six tokens, which is the tiny encoder's window
    ("Ann", "I love this movie."),
    (BOB, "I hate this bad movie."),
    ("Ann", "It was so very good"),
    (BOB, "=It was not good"),
    ("Ann", "The movie was so bad."),
    (BOB, "a"),
]


@pytest.fixture(scope="module")
def analyzer(tiny_run) -> Analyzer:
    return Analyzer(tiny_run.folder)


def write_transcript(path: Path, lines=LINES) -> Path:
    segments = [
        {"start": 4.0 * i, "end": 4.0 * i + 2, "text": text, "speaker": speaker}
        for i, (speaker, text) in enumerate(lines)
    ]
    path.write_text(json.dumps({"segments": segments, "language": "en"}))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return write_wave(tmp_path_factory.mktemp("recording") / "-it's <b>a \U0001f600.wav", 220, 24.0)


@pytest.fixture(scope="module")
def analysed(analyzer, recording, tmp_path_factory) -> tuple[Timeline, Path]:
    folder = tmp_path_factory.mktemp("analysis")
    shares: list[float] = []
    timeline = analyzer.analyze(
        recording, write_transcript(folder / "t.json"), folder / "out", lambda _, share: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return timeline, folder / "out"


def test_the_timeline(analysed):
    timeline, _ = analysed
    assert [m.speaker for m in timeline.moments] == ["Ann", BOB] * 3
    assert [m.start for m in timeline.moments] == [4.0 * i for i in range(6)]
    for m in timeline.moments[:-1]:
        assert m.sentiment is not None
        assert -3 <= m.sentiment <= 3
        assert m.low is None  # eight valid rows do not say how uncertain it is
        assert m.words is not None
        assert m.voice is not None
        assert m.words.emotions != m.voice.emotions
    last = timeline.moments[-1]
    assert (last.unscored, last.sentiment, last.emotions) == ("not enough speech", None, {})
    assert (timeline.language, timeline.language_source) == ("en", "named by the transcript")


def test_each_modality_alone_is_what_the_predictor_says(analysed, analyzer):
    timeline, _ = analysed
    first = timeline.moments[0]
    words = analyzer.predictor.predict(text=first.text)
    assert (first.words.sentiment, first.words.emotions) == (words.sentiment, words.emotions)


def test_the_files(analysed):
    timeline, out = analysed
    assert {p.name for p in out.iterdir()} == FILES
    assert read_timeline(out / "timeline.json") == timeline
    rows = list(csv.DictReader(io.StringIO((out / "timeline.csv").read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert rows[3]["text"].startswith("'=")  # no spreadsheet runs it
    vtt = (out / "subtitles.vtt").read_text()
    assert vtt.startswith("WEBVTT\nLanguage: en\n\n00:00:00.000 --> 00:00:02.000\n<v Ann>I love")
    assert "[not enough speech]" in vtt
    assert "<img" not in vtt


def test_no_markup_reaches_the_report(analysed):
    _, out = analysed
    page = (out / "report.html").read_text()
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;/script&gt;&lt;img" in page
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "{{" not in page
    assert "band not known" in page


def test_its_own_subtitles_are_read_back_without_the_moods(analysed, analyzer, recording, tmp_path):
    timeline, out = analysed
    found = read_transcript(out / "subtitles.vtt", timeline.seconds)
    words = " ".join(w.text for p in found.passages for w in p.words)
    assert words == " ".join(m.text for m in timeline.moments)
    assert "<c.mood>[" in (out / "subtitles.vtt").read_text()


@pytest.mark.parametrize("context", [True, False])
def test_the_report_says_what_the_numbers_come_from(analysed, context):
    timeline = analysed[0]
    band = {"sentiment_error_quantiles": {"all": {"low": -1.0, "high": 1.0, "n": 99}}}
    facts = timeline.model | band | {"context": context, "valid_learned": context}
    told = "".join(render(replace(timeline, model=facts), ""))
    assert ("in the light of the other utterances of this recording; words alone and voice" in told) is context
    assert ("utterances that the model had not learned from;" in told) is not context
    one = "".join(render(replace(timeline, moments=timeline.moments[:1]), ""))
    assert " · 1 utterance · " in one


def test_pandas(analysed):
    pytest.importorskip("pandas", reason="the extra `analyze` is not installed")
    frame = analysed[0].to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 6
    assert np.isnan(frame["sentiment"].iloc[-1])


def test_summaries(analysed):
    timeline, _ = analysed
    assert summarise(timeline.moments[:2]).sentiment is None  # not enough speech
    assert summarise(timeline.moments).sentiment is not None
    best = strongest(timeline, 1)
    assert best == sorted(best, key=lambda m: -m.sentiment)
    assert all(abs(m.contrast) >= 0.25 for m in disagreements(timeline))


def test_a_second_call_finds_it_done_and_other_words_do_not(analysed, analyzer, recording, tmp_path):
    timeline, out = analysed
    assert analyzer.done(recording, write_transcript(tmp_path / "t.json"), out) == timeline
    assert analyzer.done(recording, write_transcript(tmp_path / "t.json", LINES[:2]), out) is None
    other = write_wave(tmp_path / "other.wav", 300, 1)
    with pytest.raises(UserError, match="give another --out"):
        analyzer.analyze(other, write_transcript(tmp_path / "t.json", LINES[:0]), out)


def test_a_transcript_that_is_saved_meanwhile_is_analysed_again(analyzer, recording, tmp_path):
    transcript = write_transcript(tmp_path / "t.json")

    def saved(what: str, _: float) -> None:
        if what == "scoring":
            write_transcript(transcript, LINES[:2])

    timeline = analyzer.analyze(recording, transcript, tmp_path / "out", saved)
    assert len(timeline.moments) == 6
    assert analyzer.done(recording, transcript, tmp_path / "out") is None
    assert analyzer.done(recording, write_transcript(transcript), tmp_path / "out") == timeline


def test_a_transcript_whose_name_says_another_language_is_another(analyzer, recording, tmp_path):
    transcript = tmp_path / "t.srt"
    transcript.write_text("00:01.000 --> 00:03.000\ni love this movie\n")
    assert analyzer.analyze(recording, transcript, tmp_path / "out").language is None
    german = transcript.rename(tmp_path / "t.de.srt")
    assert analyzer.done(recording, german, tmp_path / "out") is None


def test_a_transcriber_without_a_model_is_told(tiny_run, recording, tmp_path):
    (tmp_path / "whisper").mkdir()
    with pytest.raises(UserError, match=r"whisper holds no model\.bin of a CTranslate2 Whisper"):
        Analyzer(tiny_run.folder, str(tmp_path / "whisper")).key(recording, None)


def test_another_process_finds_it_done(tiny_encoders, tiny_corpus, recording, tmp_path):
    """Of a model that adapts its encoders, whose weights are brought and folded when they are first needed."""
    recipe = corpus_recipe(tiny_encoders, epochs=1).model_dump()
    recipe["encoders"]["audio"] |= {"adapt": "lora", "upper": 1}
    train(Recipe.model_validate(recipe), [tiny_corpus], tmp_path / "run", cache=FeatureCache(tmp_path / "features"))
    transcript = write_transcript(tmp_path / "t.json")
    first = Analyzer(tmp_path / "run")
    timeline = first.analyze(recording, transcript, tmp_path / "out")
    assert first.done(recording, transcript, tmp_path / "out") == timeline
    assert Analyzer(tmp_path / "run").done(recording, transcript, tmp_path / "out") == timeline
    assert Analyzer(mmolre.load(tmp_path / "run")).done(recording, transcript, tmp_path / "out") == timeline
    pipeline = tmp_path / "run/model/pipeline.json"
    pipeline.write_text(pipeline.read_text() + "\n")
    assert Analyzer(tmp_path / "run").done(recording, transcript, tmp_path / "out") is None


@pytest.mark.parametrize("name", ["sound.mp3", "subtitles.vtt", "timeline.csv", "report.html", "timeline.json"])
def test_files_of_others_are_not_overwritten(analyzer, recording, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is not of an analysis, and would be overwritten"):
        analyzer.analyze(recording, write_transcript(tmp_path / "t.json"), tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir() if p.name != "t.json"} == {name: "mine"}


def test_what_is_read_is_not_overwritten(analyzer, analysed, recording, tmp_path):
    sound = write_wave(tmp_path / "a.wav", 220, 6.0).rename(tmp_path / "sound.mp3")
    with pytest.raises(UserError, match="is to be read, and would be overwritten"):
        analyzer.analyze(sound, write_transcript(tmp_path / "t.json", LINES[:1]), tmp_path)
    assert sound.is_file()
    _, out = analysed
    with pytest.raises(UserError, match="is to be read, and would be overwritten"):
        analyzer.analyze(recording, out / "subtitles.vtt", out)


def test_an_analysis_without_its_timeline_is_made_again(analyzer, recording, tmp_path):
    transcript = write_transcript(tmp_path / "t.json")
    analyzer.analyze(recording, transcript, tmp_path / "out")
    (tmp_path / "out" / "timeline.json").unlink()  # as the command advises
    analyzer.analyze(recording, transcript, tmp_path / "out")
    assert (tmp_path / "out" / "timeline.json").is_file()


def test_a_recording_that_was_changed_is_told_from_another(analyzer, tmp_path):
    path, transcript = write_wave(tmp_path / "a.wav", 220, 6.0), write_transcript(tmp_path / "t.json", LINES[:1])
    analyzer.analyze(path, transcript, tmp_path / "out")
    write_wave(path, 330, 6.0)
    with pytest.raises(UserError, match=r"or of what it was before.*delete .*timeline.json to replace it"):
        analyzer.analyze(path, transcript, tmp_path / "out")


def test_an_index_of_others_is_not_overwritten(analyzer, recording, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"index\.html is not of an analysis"):
        analyze_all(analyzer, [recording] * 2, tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_why_nothing_is_scored_is_said_in_every_summary(analyzer, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(TextEncoder, "english_only", True)
    (tmp_path / "t").mkdir()
    path = write_transcript(tmp_path / "t" / f"{recording.stem}.json")
    path.write_text(path.read_text().replace('"en"', '"de"'))
    (result,) = analyze_all(analyzer, [recording], tmp_path / "out", transcripts=tmp_path / "t")
    assert result.timeline is not None
    reason = "the words are in German, and this model reads English only"
    assert summarise(result.timeline.moments).unscored == reason
    assert _in_short(result.timeline) == reason
    assert reason in (tmp_path / "out" / "index.html").read_text()
    page = (result.folder / "report.html").read_text()
    assert f"Nothing is scored: {reason}.</p>" in page
    assert "Not enough speech for" not in page


def test_a_silent_recording_is_scored_by_its_words(analyzer, tmp_path):
    path, transcript = write_wave(tmp_path / "a.wav", 0, 12.0), write_transcript(tmp_path / "t.json", LINES[:3])
    silent = analyzer.analyze(path, transcript)
    assert [m.voice for m in silent.moments] == [None] * 3
    alone = [analyzer.predictor.predict(text=m.text) for m in silent.moments]
    assert [m.sentiment for m in silent.moments] == pytest.approx([p.sentiment for p in alone], abs=1e-4)


def test_words_of_the_end_that_could_not_be_read_are_told_of(analyzer, tmp_path):
    path = tmp_path / "a.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        noise = np.random.default_rng(0).normal(0, 3000, (1, 300 * 16_000)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    path.write_bytes(
        path.read_bytes()[: int(0.9915 * path.stat().st_size)]
    )  # 297.4 s: so little is missing that no note says so
    segments = [{"start": start, "end": start + 0.4, "text": "so good"} for start in (0.0, 297.5, 299.6)]
    transcript = tmp_path / "t.json"
    transcript.write_text(json.dumps(segments))
    timeline = analyzer.analyze(path, transcript)
    assert 297 < timeline.seconds < 297.5
    assert [m.text for m in timeline.moments] == ["so good", "so good"]
    assert timeline.moments[1].end <= timeline.seconds
    assert "2 words of the transcript, from 4:59 on" in timeline.notes[0]


def test_a_mood_is_counted_as_it_is_shown(analysed):
    timeline, _ = analysed
    moments = [replace(m, sentiment=0.46, unscored=None) for m in timeline.moments]
    assert summarise(moments).positive == 1.0
    assert len(strongest(replace(timeline, moments=moments), 1)) == 5


def test_characters_that_spell_are_kept_and_that_deceive_are_not():
    assert escape("3.04.05\u202fPM \U0001f468\u200d\U0001f469 soft\u00adhyphen") == (
        "3.04.05 PM \U0001f468\u200d\U0001f469 softhyphen"
    )
    assert escape("a\u202eb\x1bc<") == "a\ufffdb\ufffdc&lt;"
    assert escape("\u200e- good\u061c\u200f") == "- good"  # invisible, and no harm in leaving them out
    england = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    assert escape(england + "\U0001fae8\ufffe") == england + "\U0001fae8\ufffd"  # the second younger than Python 3.11


def test_foreign_words_are_not_scored_by_an_english_model(analyzer, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(TextEncoder, "english_only", True)
    path = write_transcript(tmp_path / "t.json")
    path.write_text(path.read_text().replace('"en"', '"de"'))
    timeline = analyzer.analyze(recording, path)
    assert "German" in timeline.notes[0]
    assert not any(m.scored for m in timeline.moments)


@pytest.mark.parametrize("kind", ["gone", "empty", "text", "unwritable", "misfit"])
def test_bad_input_leaves_nothing(analyzer, recording, tmp_path, kind):
    path, out = recording, tmp_path / "new" / "out"
    transcript = write_transcript(tmp_path / "t.json")
    if kind == "gone":
        path = tmp_path / "gone.wav"
    elif kind in ("empty", "text"):
        path = tmp_path / "a.wav"
        path.write_text("words" * (kind == "text"))
    elif kind == "unwritable":
        (tmp_path / "new").write_text("a file")
    else:
        write_transcript(tmp_path / "t.json", [*LINES, ("Ann", "far too late")] * 3)
    with pytest.raises(UserError) as error:
        analyzer.analyze(path, transcript, out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_many_with_one_broken_and_two_of_one_name(analyzer, tmp_path):
    for folder in ("a", "b"):
        write_wave(tmp_path / "in" / folder / "talk.wav", 220 if folder == "a" else 300, 3)
    (tmp_path / "in" / "broken.mp3").write_bytes(b"no")
    (tmp_path / "words").mkdir()
    write_transcript(tmp_path / "words" / "talk.json", [("Ann", "I love this movie.")])
    write_transcript(tmp_path / "words" / "broken.json", [("Ann", "I love this movie.")])
    recordings = find_recordings([tmp_path / "in"])
    assert len(recordings) == 3
    out = tmp_path / "out"
    first = analyze_all(analyzer, recordings, out, transcripts=tmp_path / "words")
    assert {r.path.name: bool(r.failure) for r in first} == {"talk.wav": False, "broken.mp3": True}
    assert {p.name for p in out.iterdir()} == {"talk.wav", "talk.wav-2", "index.html"}
    page = (out / "index.html").read_text()
    assert "broken.mp3" in page
    assert './talk.wav-2/report.html"' in page
    second = analyze_all(analyzer, recordings, out, transcripts=tmp_path / "words")
    assert [r.again for r in second if r.timeline] == [True, True]
    alone = analyze_all(analyzer, [tmp_path / "in" / "b" / "talk.wav"], out, transcripts=tmp_path / "words")
    assert alone[0].again  # not mistaken for the other of its name
    assert not alone[0].without


def test_a_recording_is_found_once_and_beside_an_analysis_of_its_folder(tmp_path, monkeypatch):
    first, second = (write_wave(tmp_path / "in" / name, 220, 1) for name in ("a.wav", "b.wav"))
    for name in ("timeline.json", "sound.mp3"):
        (tmp_path / "in" / name).touch()
    assert find_recordings([tmp_path / "in"]) == [first, second]
    monkeypatch.chdir(tmp_path)
    assert find_recordings([Path("in/a.wav"), first, tmp_path / "in"]) == [Path("in/a.wav"), second]


def test_which_transcript_is_a_recordings_own(tmp_path):
    recording = tmp_path / "Talk.v2.MP4"
    for names, expected in (
        (["talk.v2.SRT", "talk.v2.en.srt", "other.srt", "talk.srt"], "talk.v2.SRT"),
        (["Talk.v2.MP4.srt", "Talk.v2.txt"], "Talk.v2.MP4.srt"),
        (["talk.v2.de.vtt", "talk.v2.en.vtt", "talk.v2.txt"], "talk.v2.en.vtt"),
        (["talk.v2.fr.vtt", "talk.v2.de.vtt"], "talk.v2.de.vtt"),
        (["talk.v2.english.vtt", "talk.srt"], None),
        (["TALK.v2.srt", "Talk.v2.srt", "talk.v2.srt"], "Talk.v2.srt"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        found = find_transcript(recording, folder)
        assert (found and found.name) == expected


def test_one_transcript_is_not_taken_for_several_recordings(analyzer, recording, tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        analyze_all(analyzer, [recording] * 2, tmp_path / "out", transcripts=write_transcript(tmp_path / "t.json"))
    assert not (tmp_path / "out").exists()


def test_who_stops_an_analysis_does_not_wait_for_its_sound(analyzer, recording, tmp_path, monkeypatch):
    ended: list[bool] = []

    def forever(_: object, __: Path, stopped=lambda: False) -> None:
        until = time.monotonic() + 20
        while not stopped() and time.monotonic() < until:
            time.sleep(0.01)
        ended.append(stopped())

    def stop(what: str, _: float) -> None:
        if what == "scoring":
            raise KeyboardInterrupt

    monkeypatch.setattr("mmolre.recordings.analysis.write_mp3", forever)
    with pytest.raises(KeyboardInterrupt):
        analyzer.analyze(recording, write_transcript(tmp_path / "t.json"), tmp_path / "out", stop)
    assert ended == [True]


def test_sound_that_nobody_needs_is_not_written(tmp_path):
    sound = Sound(np.zeros(120 * 16_000, np.int16), 120.0)
    asked = iter([False, True])
    write_mp3(sound, tmp_path / "a.mp3", lambda: next(asked))
    assert duration(tmp_path / "a.mp3") == pytest.approx(60, abs=0.2)


def test_a_full_disk_leaves_the_folder_as_it_was(analyzer, recording, tmp_path, monkeypatch):
    out = tmp_path / "out"
    transcript = write_transcript(tmp_path / "t.json")
    analyzer.analyze(recording, transcript, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(_: Timeline) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mmolre.recordings.analysis.as_csv", full)
    with pytest.raises(UserError, match="is full"):
        analyzer.analyze(recording, write_transcript(transcript, LINES[:2]), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    with pytest.raises(UserError, match="is full"):
        analyzer.analyze(recording, transcript, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_names_and_words_that_are_no_text(analyzer, tmp_path):
    path = write_wave(tmp_path / os.fsdecode(b"caf\xe9.wav"), 220, 5.0)
    transcript = tmp_path / os.fsdecode(b"\xff.json")
    transcript.write_text(r'{"segments": [{"start": 0, "end": 2, "text": "half \ud83d a pair", "speaker": "\ud83d"}]}')
    timeline = analyzer.analyze(path, transcript, tmp_path / "out")
    assert (timeline.recording, timeline.moments[0].text) == ("caf\ufffd.wav", "half ? a pair")
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES


def test_the_public_function_is_no_module():
    assert callable(mmolre.analyze)


@pytest.mark.encoders
@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_no_speech_is_said_and_nothing_is_scored(tiny_run, tmp_path, seconds):
    pytest.importorskip("faster_whisper")
    from mmolre.encoders.weights import SOURCES, find

    if find(SOURCES["whisper-tiny-en"]) is None:
        pytest.skip("not fetched: whisper-tiny-en")
    path = write_wave(tmp_path / "hum.wav", 220, seconds)
    timeline = mmolre.analyze(path, model=tiny_run.folder, out=tmp_path / "out")
    assert not timeline.speech_found
    assert "No speech found" in (tmp_path / "out" / "report.html").read_text()
