"""Folders of clips with tables beside them: MELD, MMML, CH-SIMS, CREMA-D, IEMOCAP, one's own recordings."""

import json
from pathlib import Path

import pytest

from mmolre.data.importers import (
    import_ch_sims,
    import_crema_d,
    import_folder,
    import_iemocap,
    import_meld,
    import_mmml,
)
from mmolre.data.manifest import read_manifest
from mmolre.errors import UserError


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


class TestMeld:
    def test_text_labels_and_clips(self, tmp_path):
        lines = '1,"Oh, he\x92s lost it.",Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","01:21:00,049"\n'
        lines += '2,What?,Monica,neutral,neutral,0,1,4,7,"00:21:01,927",odd\n'
        put(tmp_path / "train_sent_emo.csv", MELD + lines)
        put(tmp_path / "test_sent_emo.csv", MELD + '9,Yes!,Joey,joy,positive,0,0,4,7,"",""\n')
        for name in (
            "train_splits/dia0_utt0.mp4",
            "test_splits/dia0_utt0.mp4",
            "train/dia0_utt0.wav",
            "x/dia0_utt1.mp4",
        ):
            put(tmp_path / name)
        summary = import_meld([tmp_path], tmp_path)
        first, second, third = read_manifest(summary.path)
        assert (first.id, first.text, first.speaker) == ("train_dia0_utt0", "Oh, he’s lost it.", "Phoebe")
        assert (first.video_id, first.split, first.sentiment) == ("train_dia0", "train", -1)
        assert (first.emotions, first.start, first.audio) == (
            (0, 1, 0, 0, 0, 0),
            None,
            tmp_path / "train/dia0_utt0.wav",
        )
        assert (second.emotions, second.start, second.end, second.audio) == ((0,) * 6, 1261.927, None, None)
        assert (third.id, third.split, third.emotions[0], third.sentiment) == ("test_dia0_utt0", "test", 1, 1)
        assert third.audio == tmp_path / "test_splits" / "dia0_utt0.mp4"
        assert "2 of 3 utterances have audio" in summary.notes
        summary = import_meld([tmp_path], tmp_path, sentiment="none")
        assert [row.sentiment for row in read_manifest(summary.path)] == [None] * 3

    def test_what_is_no_meld(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing of MELD there: expected train_sent_emo\.csv"):
            import_meld([tmp_path], tmp_path)
        put(tmp_path / "dev_sent_emo.csv", "a,b\n1,2\n")
        with pytest.raises(UserError, match=r"dev_sent_emo\.csv:2: no column 'Dialogue_ID'"):
            import_meld([tmp_path], tmp_path)
        put(tmp_path / "dev_sent_emo.csv", MELD + "1,a,b,rage,negative,0,0,1,1,,\n")
        with pytest.raises(UserError, match="Emotion is 'rage', not one of"):
            import_meld([tmp_path], tmp_path)

    @pytest.mark.corpus
    def test_the_genuine_files(self, corpora, tmp_path):
        rows = read_manifest(import_meld([corpora / "meld"], tmp_path).path)
        assert [sum(row.split == s for row in rows) for s in ("train", "valid")] == [9989, 1109]
        assert sum(row.emotions[0] == 1 for row in rows) == 1743 + 163
        assert not any(0x7F < ord(letter) < 0xA0 for row in rows for letter in row.text or "")


LABELS = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"


class TestLabelledClips:
    def test_mmml(self, tmp_path):
        put(tmp_path / "label.csv", LABELS + "-v,10,SO GOOD,2.6,,,,Positive,train\n-v,2,BAD,-3.0,,,,Negative,valid\n")
        put(tmp_path / "wav" / "-v" / "10.wav")
        put(tmp_path / "Raw" / "-v" / "10.mp4")
        rows = read_manifest(import_mmml([tmp_path], tmp_path / "out").path)
        assert [(r.id, r.video_id, r.text, r.sentiment, r.split) for r in rows] == [
            ("-v_10", "-v", "SO GOOD", 2.6, "train"),
            ("-v_2", "-v", "BAD", -3, "valid"),
        ]
        assert rows[0].audio is not None
        assert rows[0].audio.samefile(tmp_path / "wav" / "-v" / "10.wav")
        assert rows[1].audio is None

    def test_ch_sims(self, tmp_path):
        put(tmp_path / "meta.csv", LABELS + "video_0001,1,好,-1.0,,,,N,train\nvideo_0001,0002,不,0.2,,,,P,test\n")
        put(tmp_path / "Raw" / "video_0001" / "0001.mp4")
        summary = import_ch_sims([tmp_path], tmp_path)
        rows = read_manifest(summary.path)
        assert [(row.id, row.text, row.split) for row in rows] == [
            ("video_0001_1", "好", "train"),
            ("video_0001_0002", "不", "test"),
        ]
        assert [row.sentiment for row in rows] == pytest.approx([-3, 0.6])
        assert rows[0].audio == tmp_path / "Raw" / "video_0001" / "0001.mp4"
        assert "sentiment rescaled from [-1, 1] to [-3, 3]" in summary.notes

    def test_bad_tables(self, tmp_path):
        with pytest.raises(UserError, match=r"no label\.csv"):
            import_mmml([tmp_path], tmp_path)
        put(tmp_path / "label.csv", "video_id,text\n1,2\n")
        with pytest.raises(UserError, match=r"label\.csv:2: no column 'clip_id'"):
            import_mmml([tmp_path], tmp_path)
        put(tmp_path / "label.csv", LABELS + "v,1,x,2,,,,,train\n")
        with pytest.raises(UserError, match=r"label\.csv:2: label is 2, outside \[-1, 1\]"):
            import_ch_sims([tmp_path], tmp_path)
        put(tmp_path / "label.csv", LABELS + "..,1,x,2,,,,,train\n../..,1,y,1,,,,,train\n")
        assert [row.audio for row in read_manifest(import_mmml([tmp_path], tmp_path).path)] == [None, None]


class TestCremaD:
    def test_names_say_all(self, tmp_path):
        names = ("1001_DFA_ANG_XX", "1066_IEO_HAP_HI", "1067_IEO_SAD_LO", "1075_TIE_FEA_MD", "1076_TIE_NEU_XX", "x")
        for name in names:
            put(tmp_path / "AudioWAV" / f"{name}.wav")
        put(tmp_path / "AudioMP3" / "1001_DFA_ANG_XX.mp3")
        summary = import_crema_d([tmp_path], tmp_path)
        assert [(row.id[:4], row.split, row.speaker, row.emotions) for row in read_manifest(summary.path)] == [
            ("1001", "train", "crema-d-1001", (0, 0, 1, 0, 0, 0)),
            ("1066", "train", "crema-d-1066", (3, 0, 0, 0, 0, 0)),
            ("1067", "valid", "crema-d-1067", (0, 1, 0, 0, 0, 0)),
            ("1075", "valid", "crema-d-1075", (0, 0, 0, 0, 0, 2)),
            ("1076", "test", "crema-d-1076", (0,) * 6),
        ]
        assert [name for name, _ in summary.dropped] == ["AudioWAV/x.wav", "AudioMP3/1001_DFA_ANG_XX.mp3"]
        with pytest.raises(UserError, match="nothing of CREMA-D found"):
            import_crema_d([put(tmp_path / "empty" / "a.txt").parent], tmp_path / "o")


class TestIemocap:
    @pytest.fixture
    def release(self, tmp_path):
        for session, emotion in ((1, "exc"), (4, "fru"), (5, "neu")):
            dialog = f"Ses0{session}F_impro01"
            folder = tmp_path / f"Session{session}"
            put(
                folder / "dialog" / "EmoEvaluation" / f"{dialog}.txt",
                "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
                f"[6.2901 - 8.2357]\t{dialog}_M000\t{emotion}\t[2.5000, 2.5000, 2.5000]\n"
                "C-E2:\tNeutral;\t()\n\n"
                f"[10.0100 - 11.3925]\t{dialog}_F000\tang\t[1.0000, 2.5000, 2.5000]\n",
            )
            text = f"{dialog}_M000 [006.2901-008.2357]: Excuse me.\n{dialog}_F000 [010.0100-011.3925]: Do you?\n"
            put(folder / "dialog" / "transcriptions" / f"{dialog}.txt", text)
            put(folder / "sentences" / "wav" / dialog / f"{dialog}_M000.wav")
            put(folder / "dialog" / "wav" / f"{dialog}.wav")
        return tmp_path

    def test_labels_text_audio_and_sessions(self, release):
        summary = import_iemocap([release], release)
        rows = read_manifest(summary.path)
        assert [(row.id, row.split, row.speaker) for row in rows[:3]] == [
            ("Ses01F_impro01_M000", "train", "Ses01M"),
            ("Ses01F_impro01_F000", "train", "Ses01F"),
            ("Ses04F_impro01_M000", "valid", "Ses04M"),
        ]
        assert rows[-1].split == "test"
        assert [row.emotions for row in rows[::2]] == [(1, *[0] * 5), (None,) * 6, (0,) * 6]
        assert (rows[0].text, rows[0].sentiment, rows[1].sentiment) == ("Excuse me.", -0.75, -3)
        assert rows[0].audio is not None
        assert (rows[0].audio.name, rows[0].cut) == ("Ses01F_impro01_M000.wav", False)
        assert rows[1].audio is not None
        assert (rows[1].audio.name, rows[1].start, rows[1].cut) == ("Ses01F_impro01.wav", 10.01, True)
        assert "1 have an emotion that is none of the six: left blank" in summary.notes
        provenance = json.loads((release / "provenance.json").read_text())
        assert len(provenance["inputs"]) == 6

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match="no session there: expected IEMOCAP's folders"):
            import_iemocap([tmp_path], tmp_path)
        (tmp_path / "Session1").mkdir()
        with pytest.raises(UserError, match="no labelled utterance there"):
            import_iemocap([tmp_path], tmp_path)


SRT = """1
00:00:01,000 --> 00:00:02,5
<i>Hello</i> &amp; welcome,
everyone.

2
00:00:03,000 --> 00:00:03,000
Nothing lasts.

3
01:00:04.250 --> 01:00:06.000 X1:0
{\\an8}Again.
"""


class TestFolder:
    def test_recordings_and_their_words(self, tmp_path):
        for name in ("b.wav", "deep/a.mp4", "silent.flac", "b.mp3", "none.wav", "notes.md"):
            put(tmp_path / name)
        put(tmp_path / "b.txt", "\ufeffSo\n good.\n")
        put(tmp_path / "deep" / "a.srt", SRT)
        put(tmp_path / "none.srt", "1\n00:00:01,000 --> 00:00:02,000\n\n")
        summary = import_folder([tmp_path], tmp_path)
        rows = read_manifest(summary.path)
        assert [(r.id, r.text, r.start, r.end, r.cut, r.video_id) for r in rows] == [
            ("b", "So good.", None, None, False, "b"),
            ("deep/a#1", "Hello & welcome, everyone.", 1, 2.5, True, "deep/a"),
            ("deep/a#2", "Again.", 3604.25, 3606, True, "deep/a"),
            ("silent", None, None, None, False, "silent"),
        ]
        assert dict(summary.dropped) == {
            "b.mp3": "another recording has this name",
            "none.wav": "its .srt has no cue with words that lasts",
        }
        where = tmp_path / "deep" / "a.srt"
        assert summary.notes == [
            "1 recordings have no words beside them",
            f"1 cues end no later than they begin and are left out, e.g. 'Nothing lasts.' in {where}",
        ]

    def test_words_as_editors_save_them(self, tmp_path):
        for name, content in (("a.txt", "So\rgood."), ("b.srt", SRT.replace("\n", "\r\n"))):
            put(tmp_path / name).with_suffix(".wav").touch()
            (tmp_path / name).write_bytes(content.encode("utf-16"))
        rows = read_manifest(import_folder([tmp_path], tmp_path / "out").path)
        assert [row.text for row in rows] == ["So good.", "Hello & welcome, everyone.", "Again."]

    def test_nothing_there(self, tmp_path):
        put(tmp_path / "a.txt")
        with pytest.raises(UserError, match="no recording there"):
            import_folder([tmp_path], tmp_path)
        put(tmp_path / "a.wav")
        (tmp_path / "a.txt").write_bytes(b"\xff\xff")
        with pytest.raises(UserError, match=r"a\.txt: not text in UTF-8"):
            import_folder([tmp_path], tmp_path)
