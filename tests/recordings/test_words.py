import itertools

import pytest

from mmolre import UserError
from mmolre.recordings.alignment import align_text
from mmolre.recordings.words import Passage, Transcript, Word, clock, spread


def test_clock():
    assert [clock(s) for s in (0, 65.9, 3599, 3600, 36_061)] == ["0:00", "1:05", "59:59", "1:00:00", "10:01:01"]


HEARD = Transcript((Passage(spread("we went to the sea side and eight fish and chips today", 0, 11)),), "x")


def test_a_text_gets_the_times_of_what_was_heard(tmp_path):
    (tmp_path / "a.txt").write_text("Well, we went to the seaside, and ate fish and chips today!")
    words = align_text(tmp_path / "a.txt", HEARD).passages[0].words
    heard = HEARD.passages[0].words
    assert [w.text for w in words] == (tmp_path / "a.txt").read_text().split()
    assert (words[1], words[-1]) == (
        Word(heard[0].start, heard[0].end, "we"),
        Word(heard[-1].start, heard[-1].end, "today!"),
    )
    assert (words[5].start, words[5].end) == (heard[4].start, heard[5].end)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(words))


@pytest.mark.parametrize(("text", "reason"), [("", "no words"), ("something else entirely was said here", "heard")])
def test_another_text_is_refused(tmp_path, text, reason):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=reason):
        align_text(tmp_path / "a.txt", HEARD)


def test_words_that_nobody_heard_do_not_fill_a_silence(tmp_path):
    heard = Transcript(
        (Passage((*spread("we went to the sea", 0, 2), *spread("and had fish and chips", 40, 42))),), "x"
    )
    (tmp_path / "a.txt").write_text("We went to the sea, I love it, and had fish and chips.")
    words = align_text(tmp_path / "a.txt", heard).passages[0].words
    assert [(w.start, w.end) for w in words[5:8]] == [(2.0, 2.5), (2.5, 3.0), (3.0, 3.5)]


def test_a_long_text_of_few_words_is_matched(tmp_path):
    song = " we will we will rock you now let it be let it be" * 25
    heard = Transcript((Passage(spread(song, 0, 100)),), "x")
    (tmp_path / "a.txt").write_text("So" + song.removeprefix(" we"))
    words = align_text(tmp_path / "a.txt", heard).passages[0].words
    assert [w.start for w in words] == pytest.approx([w.start for w in heard.passages[0].words])
