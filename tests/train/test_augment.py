import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_encoders as encoders_of
from mmolre import UserError
from mmolre.data.cache import FeatureCache
from mmolre.encoders.audio import AudioEncoder
from mmolre.train.augment import shortened
from mmolre.train.loop import InterruptedRunError, Trainer
from mmolre.train.recipe import AugmentRecipe, Recipe, parse_recipe
from mmolre.train.run import Callbacks, train
from tiny_corpus import corpus_recipe
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


def test_each_step_draws_a_voice_and_validation_hears_the_own(tmp_path, monkeypatch):
    model = tiny_model()
    forward = model.forward
    heard: list[set[float]] = []

    def watched(features, masks, **options):
        if "audio" in masks:
            values = {round(float(x.mean()), 3) for x in features["audio"][masks["audio"]]}
            assert model.training or not values & {100.0, 200.0}
            if model.training:
                heard.append(values)
        return forward(features, masks, **options)

    monkeypatch.setattr(model, "forward", watched)
    encoders = {"text": {"source": "none"}, "audio": {"source": "none", "layers": (0, 1), "augment": {"cuts": 0}}}
    recipe = tiny_recipe(more={"encoders": encoders}, epochs=3)
    rows = tiny_rows(24, sets=MIXED)
    warped = [[{m: np.full_like(x[m], k) for m in x if m == "audio"} for x in rows.arrays] for k in (100, 200)]
    valid = tiny_rows(12, 1, MIXED)
    Trainer(recipe, model, rows, valid, tmp_path, warped=warped, save_best=lambda *_: None).run()
    drawn = [{100.0: "longer", 200.0: "shorter"}.get(value, "own") for values in heard for value in values]
    assert set(drawn) == {"own", "longer", "shorter"}


def warping(whisper: str, encoders: dict, **training) -> Recipe:
    content = corpus_recipe(encoders, **training).model_dump()
    audio = {"source": whisper, "layers": [-1], "adapt": "full", "upper": 1, "augment": {"warps": [0.9, 1.1]}}
    content["encoders"]["audio"] = audio
    return Recipe.model_validate(content)


def test_a_run_encodes_what_it_learns_from_by_each_warp(tiny_encoders, tiny_corpus, tmp_path, monkeypatch):
    encode = AudioEncoder.encode
    encoded: dict[float, int] = {}

    def counted(self, items):
        encoded[self.warp] = encoded.get(self.warp, 0) + len(items)
        return encode(self, items)

    monkeypatch.setattr(AudioEncoder, "encode", counted)
    recipe = warping(str(encoders_of.write_whisper(tmp_path / "whisper")), tiny_encoders)
    cache = FeatureCache(tmp_path / "features")
    train(recipe, [tiny_corpus], tmp_path / "whole", cache=cache)
    assert encoded == {1.0: 13, 0.9: 13, 1.1: 13}  # valid and test have no sound that train has not
    stops = iter([False, False, True])
    callbacks = Callbacks(should_stop=lambda: next(stops))
    with pytest.raises(InterruptedRunError):
        train(recipe, [tiny_corpus], tmp_path / "cut", cache=cache, callbacks=callbacks)
    train(recipe, [tiny_corpus], tmp_path / "cut", cache=cache)
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert encoded[0.9] == 13


def test_encoders_of_samples_refuse_warps(tiny_encoders, tiny_corpus, tmp_path):
    recipe = warping(str(tiny_encoders["audio"]), tiny_encoders)
    with pytest.raises(UserError, match="its voices cannot be warped"):
        train(recipe, [tiny_corpus], tmp_path, cache=FeatureCache(tmp_path / "features"))


@pytest.mark.parametrize("warp", [0.4, 2.5])
def test_a_warp_beyond_any_throat(warp):
    audio = {"source": "whisper-tiny-en", "augment": {"warps": [warp]}}
    with pytest.raises(UserError, match=r"encoders\.audio\.augment\.warps"):
        parse_recipe({"name": "a", "encoders": {"audio": audio}}, "r.yaml")
