import itertools

from hypothesis import given
from hypothesis import strategies as st

from mmolre.recordings.cut import LONGEST_SECONDS, cut
from mmolre.recordings.words import Passage, Word, spread


def texts(*passages: Passage, **options):
    return [c.text for c in cut(passages, **options)]


def test_at_the_ends_of_sentences_but_not_of_abbreviations():
    passage = Passage(spread("I met Dr. Who there today. He was not at all well! Was he really not?", 0, 10))
    assert texts(passage) == ["I met Dr. Who there today.", "He was not at all well!", "Was he really not?"]


def test_at_pauses():
    words = (*spread("this was a good start", 0, 2), *spread("and then a bad end", 4, 6))
    assert texts(Passage(words)) == ["this was a good start", "and then a bad end"]


def test_scraps_go_to_a_near_neighbour_only():
    near = (*spread("Yes.", 0, 0.3), *spread("I like it very much.", 0.5, 2))
    assert texts(Passage(near)) == ["Yes. I like it very much."]
    far = (*spread("Yes.", 0, 0.3), *spread("I like it very much.", 5, 7))
    assert texts(Passage(far)) == ["Yes.", "I like it very much."]


def test_speakers_are_not_mixed_and_overlaps_are_kept():
    one, two = Passage(spread("I think that is so", 0, 4), "A"), Passage(spread("no it is not so", 2, 3), "B")
    assert [(c.speaker, c.start, c.end) for c in cut([one, two])] == [("A", 0.0, 4.0), ("B", 2.0, 3.0)]


def test_what_does_not_fit_the_text_window_is_cut():
    passage = Passage(spread("a b c d, e f g h", 0, 5))
    assert texts(passage, fits=lambda text: len(text.split()) <= 4) == ["a b c d,", "e f g h"]


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 40), st.sampled_from(["word", "end.", "so,"])), max_size=60))
def test_nothing_is_lost_and_nothing_is_too_long(items):
    at, words = 0.0, []
    for gap, length, text in items:
        words.append(Word(at + gap, at + gap + length, text))
        at += gap + length
    cuts = cut([Passage(tuple(words))] if words else [])
    assert " ".join(c.text for c in cuts).split() == [w.text for w in words]
    assert all(0 <= c.end - c.start <= LONGEST_SECONDS + 0.002 for c in cuts)
    assert all(a.end <= b.start + 0.002 for a, b in itertools.pairwise(cuts))


def test_words_that_share_one_time_are_halved():
    words = tuple(Word(1.0, 1.0, f"w{i}") for i in range(3000))
    pieces = texts(Passage(words), fits=lambda text: len(text.split()) <= 50)
    assert " ".join(pieces).split() == [word.text for word in words]
    assert max(len(piece.split()) for piece in pieces) <= 50
    assert len(pieces) <= 2 * 3000 / 50 + 8
