import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmolre import Utterance
from mmolre.data.batching import collate, likeness, shuffled_buckets, sorted_buckets, targets

lengths = st.lists(st.integers(0, 50), min_size=1, max_size=60)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(lengths, st.integers(1, 9), st.integers(0, 99), st.integers(1, 4))
def test_each_index_once_and_all_batches_full_but_one(lengths, size, seed, pool):
    keys = [("text", length) for length in lengths]
    for batches in (shuffled_buckets(lengths, size, draws(seed), pool=pool), sorted_buckets(keys, size)):
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert sorted(len(batch) for batch in batches)[1:] == [size] * (len(batches) - 1)


def test_the_seed_decides():
    many = [i % 7 for i in range(100)]
    assert shuffled_buckets(many, 8, draws(1)) == shuffled_buckets(many, 8, draws(1))
    assert shuffled_buckets(many, 8, draws(1)) != shuffled_buckets(many, 8, draws(2))


def test_shuffled_batches_are_neither_in_order_of_length_nor_the_same_company_each_time():
    many = np.random.default_rng(0).integers(1, 100, 800).tolist()
    batches = shuffled_buckets(many, 8, draws(1), pool=50)
    means = [np.mean([many[i] for i in batch]) for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    assert abs(np.corrcoef(means[:50], np.arange(50))[0, 1]) < 0.3
    others = {frozenset(batch) for batch in shuffled_buckets(many, 8, draws(2), pool=50)}
    assert sum(frozenset(batch) in others for batch in batches) < 5


def test_little_padding():
    many = np.random.default_rng(0).integers(1, 100, 2000).tolist()

    def waste(batches):
        padded = sum(len(b) * max(many[i] for i in b) for b in batches)
        return padded / sum(many) - 1

    plain = torch.randperm(2000, generator=draws(0)).tolist()
    assert waste([plain[i : i + 16] for i in range(0, 2000, 16)]) > 0.8
    assert waste(shuffled_buckets(many, 16, draws(0))) < 0.03
    assert waste(sorted_buckets([("text", length) for length in many], 16)) < 0.01


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50)), max_size=60), st.integers(1, 9), st.integers(1, 99)
)
def test_no_batch_is_longer_than_it_may_be(keys, size, positions):
    batches = sorted_buckets(keys, size, positions)
    assert sorted(i for batch in batches for i in batch) == list(range(len(keys)))
    assert all(len(batch) <= size for batch in batches)
    padded = [len(batch) * max(keys[i][1] for i in batch) for batch in batches]
    assert all(p <= positions or len(batch) == 1 for p, batch in zip(padded, batches, strict=True))


def test_collate():
    a = {"text": np.full((2, 1, 3), 1.0, np.float16)}
    b = {"text": np.full((4, 1, 3), 2.0, np.float16), "audio": np.full((1, 2, 5), 3.0, np.float16)}
    utterances = [
        Utterance("a", sentiment=-1.5),
        Utterance("b", emotions=(0.0, 1.0, None, 2.0, 3.0, 0.5)),
    ]
    batch = collate(utterances, [a, b])
    assert batch.ids == ["a", "b"]
    assert batch.features["text"].dtype == torch.float32
    assert batch.features["text"].shape == (2, 4, 1, 3)
    assert batch.masks["text"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch.features["text"][0, :, 0, 0].tolist() == [1, 1, 0, 0]
    assert batch.features["audio"].shape == (2, 1, 2, 5)
    assert batch.masks["audio"].tolist() == [[False], [True]]
    np.testing.assert_equal(batch.sentiment.tolist(), [-1.5, np.nan])
    np.testing.assert_equal(batch.emotions.tolist(), [[np.nan] * 6, [0, 1, np.nan, 2, 3, 0.5]])


def test_a_modality_that_nobody_has_is_left_out():
    batch = collate([Utterance("a")], [{"audio": np.zeros((1, 1, 2), np.float16)}])
    assert set(batch.features) == set(batch.masks) == {"audio"}


def test_stored_features_are_not_written_to():
    values = np.ones((3, 1, 2), np.float16)
    values.flags.writeable = False  # as a memory map is
    batch = collate([Utterance("a")], [{"text": values}])
    batch.features["text"].zero_()
    assert (values == 1).all()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_targets_have_their_shape_whatever_is_labelled(n):
    sentiment, emotions = targets([Utterance(str(i)) for i in range(n)])
    assert sentiment.shape == (n,)
    assert emotions.shape == (n, 6)


def test_utterances_of_a_batch_have_the_same_modalities_where_that_can_be():
    short, long = np.zeros((1, 1, 2)), np.zeros((9, 1, 2))
    arrays = [{"text": short}, {"audio": long}, {"text": long, "audio": short}, {"audio": short, "text": long}] * 6
    assert likeness(arrays[2]) == likeness(arrays[3]) == ("audio+text", 10)
    for batches in (
        sorted_buckets([likeness(x) for x in arrays], 6),
        shuffled_buckets([likeness(x) for x in arrays], 6, draws(0)),
    ):
        assert all(len({frozenset(arrays[i]) for i in batch}) == 1 for batch in batches)
