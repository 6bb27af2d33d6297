import json

import pytest

from mmolre import UserError
from mmolre.recordings.transcript_file import read_transcript, within

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i> &amp; welcome.

2
00:00:03,000 --> 00:00:04,000
Second
line
"""


def said(transcript):
    return [(p.speaker, " ".join(w.text for w in p.words)) for p in transcript.passages]


def test_subrip(tmp_path):
    (tmp_path / "a.srt").write_text("\ufeff" + SRT.replace("\n", "\r\n"))
    found = read_transcript(tmp_path / "a.srt", 10)
    assert said(found) == [(None, "Hello there & welcome. Second line")]
    words = found.passages[0].words
    assert (words[0].start, words[3].end, words[4].start, words[-1].end) == (1.0, 2.5, 3.0, 4.0)
    assert found.language is None
    assert found.language_source == "not checked"


def test_webvtt_with_speakers_and_language(tmp_path):
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\nLanguage: en\n\nNOTE nothing\n\n00:01.000 --> 00:02.000 align:start\n<v Ann Lee>Hi!</v>\n\n"
        "id\n00:00:02.000 --> 00:00:03.000\n<v Bob>Good <00:00:02.500>day.\n"
    )
    found = read_transcript(tmp_path / "a.vtt", 10)
    assert said(found) == [("Ann Lee", "Hi!"), ("Bob", "Good day.")]
    assert (found.language, found.language_source) == ("en", "named by the transcript")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.srt", SRT.replace("\n\n", "\n")),  # the second cue's number stands below the first cue's words
        ("a.srt", "00:01.000 --> 00:02.500\nHello there & welcome.\n00:03.000 --> 00:04.000\nSecond\nline"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.500\nHello there & welcome.\n00:03.000 --> 00:04.000\nSecond\nline"),
    ],
)
def test_cues_without_blank_lines_between_them(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    found = read_transcript(tmp_path / name, 10)
    assert said(found) == [(None, "Hello there & welcome. Second line")]
    assert found.passages[0].words[4].start == 3.0


def test_a_cue_that_is_a_number(tmp_path):
    (tmp_path / "a.srt").write_text("00:01.000 --> 00:02.000\n7\n00:03.000 --> 00:04.000\n8\n")
    assert said(read_transcript(tmp_path / "a.srt", 10)) == [(None, "7"), (None, "8")]


def test_a_last_line_that_is_a_number(tmp_path):
    # Without numbers, with them, and of an excerpt that lacks the first one.
    for first, second in (("", "\n"), ("", ""), ("1\n", "\n2\n"), ("1\n", "2\n"), ("", "\n2\n")):
        cues = f"{first}00:01.000 --> 00:02.000\nI was born in\n1984\n{second}00:03.000 --> 00:04.000\nin London.\n"
        (tmp_path / "a.srt").write_text(cues)
        assert said(read_transcript(tmp_path / "a.srt", 10)) == [(None, "I was born in 1984 in London.")]


def test_json_of_transcribers_with_word_times(tmp_path):
    words = [{"word": " Good", "start": 1.0, "end": 1.2}, {"word": " day.", "start": 1.6, "end": 2.0}]
    segments = [
        {"start": 1.0, "end": 2.0, "text": " Good day.", "words": words, "speaker": "SPEAKER_00"},
        {"start": 2.0, "end": 4.0, "text": "no word times here"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"segments": segments, "language": "german"}))
    found = read_transcript(tmp_path / "a.json", 10)
    assert found.passages[0].words[1].start == 1.6
    assert found.language == "de"
    assert said(found)[0][0] == "SPEAKER_00"
    (tmp_path / "a.json").write_text(json.dumps(segments))
    assert said(read_transcript(tmp_path / "a.json", 10)) == said(found)


def test_names_before_a_colon_are_speakers_only_where_they_recur(tmp_path):
    cue = "00:00:0{0},000 --> 00:00:0{0},900\n{1}\n\n"
    text = "".join(cue.format(i, line) for i, line in enumerate(["Ann: one", "Bob: two", "Ann: three", "Note: Bob: x"]))
    (tmp_path / "a.srt").write_text(text + cue.format(5, "Bob: four"))
    assert said(read_transcript(tmp_path / "a.srt", 10)) == [
        *(("Ann", "one"), ("Bob", "two"), ("Ann", "three"), (None, "Note: Bob: x"), ("Bob", "four"))
    ]


def test_words_that_stay_longer_than_the_sound_are_kept(tmp_path):
    """Subtitles may end a little later than the recording: all their words are said before its end."""
    (tmp_path / "a.srt").write_text(SRT)
    words = read_transcript(tmp_path / "a.srt", 2.4).passages[0].words
    assert " ".join(w.text for w in words) == "Hello there & welcome. Second line"
    assert all(0 <= w.start < 2.4 and w.start <= w.end <= 2.4 for w in words)
    assert words[0].start == 1.0
    assert words[3].end == pytest.approx(2.4)
    timed = [{"word": w, "start": i / 2, "end": i / 2 + 0.4} for i, w in enumerate(["one", "two", "three"])]
    (tmp_path / "a.json").write_text(json.dumps([{"start": 0, "end": 1.4, "text": "one two three", "words": timed}]))
    words = read_transcript(tmp_path / "a.json", 0.8).passages[0].words
    assert [(w.start, w.end) for w in words] == [(0, 0.4), (0.5, 0.8), (pytest.approx(0.79), 0.8)]


def test_without_punctuation_each_cue_stands_alone(tmp_path):
    (tmp_path / "a.srt").write_text(SRT.replace(".", ""))
    assert [text for _, text in said(read_transcript(tmp_path / "a.srt", 10))] == [
        "Hello there & welcome",
        "Second line",
    ]


def test_the_file_name_names_the_language(tmp_path):
    (tmp_path / "a.de.srt").write_text(SRT)
    assert read_transcript(tmp_path / "a.de.srt", 10).language == "de"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.srt", b"just words", "no words with times"),
        ("a.srt", b"\xff\xfa\x80", "UTF-8"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.json", b'{"x": 1}', "expected"),
        ("a.json", b'[{"start": 1, "text": "x"}]', "segment 1 needs"),
        ("a.json", b'[{"start": NaN, "end": 2, "text": "x"}]', "segment 1 needs"),
        ("a.docx", b"x", "not a transcript"),
        ("a.srt", SRT.replace("00:00:04", "00:10:04").encode(), "goes on until|go on until 10:04"),
    ],
)
def test_bad_transcripts_are_refused_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        read_transcript(tmp_path / name, 10)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_times_that_no_number_can_hold(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"segments": [{"start": 0, "end": 1%s, "text": "so"}]}' % ("0" * 400))
    with pytest.raises(UserError, match="segment 1 needs start and end in seconds"):
        read_transcript(path, 10)


def test_words_whose_times_run_backwards_are_spread(tmp_path):
    path = tmp_path / "a.json"
    words = [{"start": 2.0, "end": 2.5, "word": "so"}, {"start": 0.1, "end": 0.2, "word": "good"}]
    path.write_text(json.dumps({"segments": [{"start": 1, "end": 3, "text": "so good", "words": words}]}))
    (passage,) = read_transcript(path, 10).passages
    starts = [word.start for word in passage.words]
    assert starts == sorted(starts)
    assert passage.words[0].start == 1.0


def test_our_own_timelines(tmp_path):
    path = tmp_path / "timeline.json"
    path.write_text(json.dumps({"moments": [{"start": 0, "end": 1, "text": "so good"}], "language": "en"}))
    assert said(read_transcript(path, 10)) == [(None, "so good")]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("talk.en.srt", "en"),
        ("talk.en.hi.srt", "en"),
        ("talk.de.sdh.srt", "de"),
        ("talk.hi.srt", "hi"),
        ("talk.cc.srt", None),
    ],
)
def test_what_follows_a_language_in_a_name(tmp_path, name, language):
    (tmp_path / name).write_text(SRT)
    assert read_transcript(tmp_path / name, 10).language == language


def test_a_line_of_times_that_cannot_be_read_is_said_with_its_file(tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> soon\nwords\n")
    with pytest.raises(UserError, match=r"a\.srt: '00:00:01,000 --> soon' is no line of times"):
        read_transcript(tmp_path / "a.srt", 10)


def test_captions_that_roll_are_read_once(tmp_path):
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\nKind: captions\nLanguage: en\n\n"
        "00:00:00.000 --> 00:00:02.310 align:start position:0%\n \nhello<00:00:00.320><c> and</c><c> welcome</c>\n\n"
        "00:00:02.310 --> 00:00:02.320 align:start position:0%\nhello and welcome\n \n\n"
        "00:00:02.320 --> 00:00:05.000 align:start position:0%\nhello and welcome\nI<00:00:03.000><c> love it</c>\n\n"
        "00:00:05.000 --> 00:00:05.010 align:start position:0%\nI love it\n \n\n"
    )
    found = read_transcript(tmp_path / "a.vtt", 10)
    assert said(found) == [(None, "hello and welcome"), (None, "I love it")]
    assert [(p.words[0].start, p.words[-1].end) for p in found.passages] == [(0.0, 2.31), (2.32, 5.0)]
    # Who says the same word twice does so where nothing rolls.
    (tmp_path / "b.srt").write_text("00:01.000 --> 00:02.000\nNo.\n00:02.000 --> 00:03.000\nNo.\nNever.\n")
    assert said(read_transcript(tmp_path / "b.srt", 10)) == [(None, "No. No. Never.")]


def test_a_cue_of_two_voices_is_shared_by_length(tmp_path):
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\n\n00:01.000 --> 00:05.000\n- <v Ann>I hate it.</v>\n<v Bob>I love this so much, I say.</v>\n"
    )
    found = read_transcript(tmp_path / "a.vtt", 10)
    assert said(found) == [("Ann", "- I hate it."), ("Bob", "I love this so much, I say.")]
    assert (
        found.passages[0].words[-1].end == found.passages[1].words[0].start == pytest.approx(1 + 4 * 12 / 39, abs=1e-3)
    )
    assert found.passages[1].words[-1].end == 5.0


def test_cues_that_overlap_keep_their_times(tmp_path):
    cues = "00:00.000 --> 00:10.000\nIt goes on and on.\n00:05.000 --> 00:15.000\nSo does the other.\n"
    (tmp_path / "a.srt").write_text(cues + "00:06.000 --> 00:07.000\nYes!\n00:06.800 --> 00:09.000\nIt does.\n")
    found = read_transcript(tmp_path / "a.srt", 16)
    times = [(p.words[0].start, p.words[-1].end) for p in found.passages]
    assert times == [(0.0, 10.0), (5.0, 15.0), (6.0, 9.0)]
    for passage in found.passages:
        starts = [w.start for w in passage.words]
        assert starts == sorted(starts)
        assert all(w.end >= w.start for w in passage.words)


def test_a_language_in_a_name_is_believed_unless_the_words_are_english(tmp_path):
    english = "It was the best of times, and it was the worst of times, that is what they have to say for it all. "
    for name, text, language in (("talk.am.srt", english, None), ("talk.am.srt", "Selam.", "am")):
        (tmp_path / name).write_text(f"00:01.000 --> 00:09.000\n{text}\n")
        assert read_transcript(tmp_path / name, 10).language == language
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:09.000\nYes.\nLanguage: is what I teach\n")
    assert read_transcript(tmp_path / "a.vtt", 10).language is None


def test_json_speakers_by_number_and_words_that_are_null(tmp_path):
    segments = [{"start": i, "end": i + 1, "text": text, "speaker": i} for i, text in enumerate(["Hi.", None, "Bye."])]
    (tmp_path / "a.json").write_text(json.dumps(segments))
    assert said(read_transcript(tmp_path / "a.json", 10)) == [("0", "Hi."), ("2", "Bye.")]


def test_sounds_in_brackets_are_no_speakers(tmp_path):
    (tmp_path / "a.srt").write_text("00:01.000 --> 00:02.000\n[laughs] Oh.\n00:03.000 --> 00:04.000\n[laughs] No.\n")
    assert said(read_transcript(tmp_path / "a.srt", 10)) == [(None, "[laughs] Oh. [laughs] No.")]


@pytest.mark.parametrize("kind", ["srt", "json"])
def test_words_without_a_time_of_theirs_are_told_of(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    if kind == "srt":
        path.write_text(
            "1\n00:00:00,000 --> 00:00:02,000\none\n\n2\n00:00:06,600 --> 00:00:03,300\ntwo\n\n"
            "3\n00:00:07,000 --> 00:00:07,000\nthree\n"
        )
    else:
        said = ((0, 2, "one"), (6.6, 3.3, "two"), (7, 7, "three"))
        segments = [{"start": start, "end": end, "text": text} for start, end, text in said]
        path.write_text(json.dumps({"segments": segments}))
    read = read_transcript(path, 10.0)
    assert [[word.text for word in p.words] for p in read.passages] == [["one"]]
    assert read.notes == ("2 passages of the transcript end before they last, and are left out, e.g. 'two' at 0:06.",)


def test_words_after_the_end_of_what_could_be_read(tmp_path):
    cues = ((1, 4, "Hello there my friend."), (991, 993, "And that was all."), (996, 999, "Good bye now."))
    segments = [{"start": start, "end": end, "text": text, "speaker": str(start)} for start, end, text in cues]
    (tmp_path / "a.json").write_text(json.dumps({"segments": segments}))
    whole = read_transcript(tmp_path / "a.json", 1000)
    assert within(whole, 1000) == whole
    cut = within(whole, 991)
    assert said(cut) == [("1", "Hello there my friend."), ("991", "And that was all.")]
    assert all(w.start <= w.end <= 991 and w.start < 991 for w in cut.passages[1].words)
    assert cut.notes == (
        "Left out, as the sound that could be read ends before: 3 words of the transcript, from 16:36 on.",
    )
    assert said(within(whole, 993.5)) == said(cut)
