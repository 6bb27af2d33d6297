import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmolre import UserError
from mmolre.train.augment import shortened
from mmolre.train.loop import Trainer
from mmolre.train.recipe import AugmentRecipe, parse_recipe
from tiny_runs import MIXED, tiny_model, tiny_recipe, tiny_rows


def frames(n: int) -> np.ndarray:
    """Each frame is its own number."""
    return np.arange(n, dtype=np.float16)[:, None, None] * np.ones((1, 2, 3), np.float16)


@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 99),
    keep=st.floats(0.05, 1),
    cuts=st.integers(0, 3),
    cut=st.floats(0, 0.9),
)
def test_some_frames_in_their_order(n, seed, keep, cuts, cut):
    torch.manual_seed(seed)
    x = shortened(frames(n), AugmentRecipe(keep=keep, cuts=cuts, cut=cut))
    assert x.dtype == np.float16
    assert x.shape[1:] == (2, 3)
    places = x[:, 0, 0].astype(int)
    assert (np.diff(places) > 0).all()
    assert (np.diff(places) > 1).sum() <= cuts
    least = max(1, round(n * keep))
    for _ in range(cuts):
        least = max(1, least - int(least * cut))
    assert least <= len(x) <= n
    assert (x == x[:, :1, :1]).all()


def test_nothing_to_drop():
    assert np.array_equal(shortened(frames(9), AugmentRecipe(keep=1, cuts=0)), frames(9))


def test_ends_and_middle_are_all_left_out_at_times():
    torch.manual_seed(0)
    seen = [set(shortened(frames(40), AugmentRecipe())[:, 0, 0].astype(int)) for _ in range(200)]
    counts = np.array([sum(i in s for s in seen) for i in range(40)])
    assert (counts < 200).all()
    assert (counts > 20).all()
    assert counts[[0, -1]].max() < counts[20]
    assert min(map(len, seen)) < 24 < 36 < max(map(len, seen))


def test_training_hears_parts_and_validation_hears_all(tmp_path, monkeypatch):
    import mmolre.train.loop as loop

    monkeypatch.setattr(loop, "shortened", lambda x, _: x[:1])
    lengths: dict[str, set[int]] = {"text": set(), "audio": set()}
    model = tiny_model()
    forward = model.forward

    def watched(features, masks, **options):
        if model.training:
            for m, mask in masks.items():
                lengths[m] |= set(mask.sum(1).tolist())
        else:
            assert masks.get("audio") is None or masks["audio"].sum(1).max() > 1
        return forward(features, masks, **options)

    monkeypatch.setattr(model, "forward", watched)
    encoders = {"text": {"source": "none"}, "audio": {"source": "none", "layers": (0, 1), "augment": {}}}
    recipe = tiny_recipe(more={"encoders": encoders}, epochs=1)
    rows = tiny_rows(24, sets=MIXED)
    Trainer(recipe, model, rows, tiny_rows(12, 1, MIXED), tmp_path, save_best=lambda *_: None).run()
    assert lengths["audio"] - {0} == {1}
    assert len(lengths["text"]) > 3


def test_texts_are_not_augmented():
    with pytest.raises(UserError, match=r"encoders\.text\.augment: only voices"):
        parse_recipe({"name": "a", "encoders": {"text": {"source": "minilm", "augment": {}}}}, "r.yaml")
