"""Words around an utterance, read by its text encoder: manifests, training, prediction, analysis, explanation."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmolre.bundle import load_bundle
from mmolre.data.batching import collate
from mmolre.data.cache import FeatureCache
from mmolre.data.surroundings import surrounded
from mmolre.encoders import from_spec
from mmolre.encoders.extract import extract
from mmolre.encoders.text import Excerpt, TextEncoder
from mmolre.evaluate.run import evaluate
from mmolre.explain.inputs import leaf
from mmolre.model.upper import Upper
from mmolre.predict_file import predict_file
from mmolre.predictor import Predictor
from mmolre.recordings.cut import Cut
from mmolre.recordings.score import score
from mmolre.schema import Surroundings, Utterance
from mmolre.train.adaptation import adapted, make_encoder
from mmolre.train.recipe import EncoderRecipe, Recipe
from mmolre.train.run import train
from tiny_corpus import corpus_recipe, write_rows, write_videos
from tiny_encoders import write_roberta, write_text_like

EXCERPTS = [
    Excerpt("i love this", "movie was good", "and bad"),
    Excerpt("", "so very good", "i hate it a lot, not this"),
    Excerpt("very bad", "bad", ""),
    "i love this movie",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    roberta = write_roberta(folder / "roberta", layers=4, window=24)
    return {
        "roberta": roberta,
        "bert": write_text_like(folder / "bert", roberta, "bert"),
        "mpnet": write_text_like(folder / "mpnet", roberta, "mpnet"),
    }


# ---- which words stand around ----


def utterance(name, start=None, video="v", text=None, **more):
    return Utterance(name, text=text or f"words of {name}", start=start, video_id=video, **more)


def test_the_order_is_that_of_time():
    rows = [
        utterance("c", 9.0, split="test"),
        utterance("a", 1.0),
        utterance("x", 5.0, video=None),
        utterance("b", 4.0),
    ]
    c, a, x, b = surrounded(rows)
    texts = ("words of a", "words of b", "words of c")
    assert [u.surroundings for u in (a, b, c)] == [Surroundings(texts, place) for place in range(3)]
    assert x.surroundings is None
    assert (c, a, x, b) == tuple(rows)  # what an utterance is does not depend on what is said around it
    assert b.surroundings.sides(100) == ("words of a", "words of c")
    assert b.surroundings.sides(3) == ("f a", "wor")
    assert a.surroundings.sides(100) == ("", "words of b words of c")


def test_without_times_the_order_is_the_manifests():
    rows = [utterance("a"), utterance("b", 7.0), utterance("c"), utterance("d", 3.0), utterance("e")]
    assert [u.surroundings.place for u in surrounded(rows)] == [0, 3, 4, 1, 2]


def test_alone_or_without_words_there_is_nothing_around():
    rows = [utterance("a"), replace(utterance("b"), text=None), utterance("c", video="w"), utterance("d", video="w")]
    assert [u.surroundings is None for u in surrounded(rows)] == [True, True, False, False]


@given(st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_sides_are_the_ends_of_all_that_is_said(texts, data):
    place = data.draw(st.integers(0, len(texts) - 1))
    most = data.draw(st.integers(1, 20))
    before, after = Surroundings(tuple(texts), place).sides(most)
    assert " ".join(texts[:place]).strip().endswith(before)
    assert " ".join(texts[place + 1 :]).strip().startswith(after)
    assert len(before) <= most
    assert len(after) <= most


# ---- the tokens ----


def words(encoder, composed):
    return [
        (token if own else token.upper())
        for token, own in zip(encoder.tokenizer.convert_ids_to_tokens(composed.ids), composed.own, strict=True)
    ]


def test_the_layout(folders):
    encoder = TextEncoder(str(folders["roberta"]), surrounding_tokens=100)
    both, right, left, none = (" ".join(words(encoder, c)) for c in encoder.compose(EXCERPTS))
    assert both == "<s> I LOVE THIS </S> movie was good </s> AND BAD </S>"
    assert right.startswith("<s> so very good </s> I HATE")
    assert left == "<s> VERY BAD </S> bad </s>"
    assert none == "<s> i love this movie </s>"
    (near, *_) = TextEncoder(str(folders["roberta"]), surrounding_tokens=2).compose(EXCERPTS)
    assert " ".join(words(encoder, near)) == "<s> THIS </S> movie was good </s> AND </S>"


@given(st.integers(0, 14), st.integers(0, 14), st.integers(1, 9), st.integers(1, 30), st.integers(3, 24))
def test_the_nearest_tokens_within_budget_and_window(folders, before, after, own, budget, most):
    encoder = TextEncoder(str(folders["roberta"]), surrounding_tokens=budget, max_tokens=most)
    excerpt = Excerpt("good " * before, "movie " * own, "bad " * after)
    (composed,) = encoder.compose([excerpt])
    found = words(encoder, composed)
    assert len(composed.ids) <= 24
    assert sum(composed.own) == min(own + 2, most)  # as without surroundings
    assert composed.truncated == (own + 2 > most)
    left, right = found.count("GOOD"), found.count("BAD")
    assert left + right <= budget
    room = min(budget, 24 - sum(composed.own) - 2)
    assert left + right == min(max(room, 0), before + after)
    if before >= room and after >= room > 0:
        assert abs(left - right) <= 1


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_features_are_of_own_tokens_that_saw_the_others(folders, kind):
    encoder = TextEncoder(str(folders[kind]), (1, -1), surrounding_tokens=8)
    composed = encoder.compose(EXCERPTS)
    for found, one in zip(encoder.encode(EXCERPTS), composed, strict=True):
        with torch.inference_mode():  # the slow and obvious way
            states = encoder.module(input_ids=torch.tensor([one.ids]), output_hidden_states=True).hidden_states
        wanted = torch.stack([states[1][0], states[-1][0]], dim=1)[torch.tensor(one.own)]
        np.testing.assert_allclose(found.values, wanted, atol=4e-3)
    plain = TextEncoder(str(folders[kind]), (1, -1)).encode([p if isinstance(p, str) else p.text for p in EXCERPTS])
    ours = encoder.encode(EXCERPTS)
    assert [f.values.shape for f in ours] == [f.values.shape for f in plain]
    assert np.abs(ours[0].values - plain[0].values).max() > 0.05
    np.testing.assert_allclose(ours[3].values, plain[3].values, atol=4e-3)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("upper", [None, 1, 3])
def test_layers_that_adapt_give_the_same(folders, kind, upper):
    part = {"source": str(folders[kind]), "layers": [-1, -2], "surrounding_tokens": 8}
    frozen = make_encoder("text", EncoderRecipe.model_validate(part), "cpu").encode(EXCERPTS)
    recipe = EncoderRecipe.model_validate(part | {"adapt": "full", "upper": upper})
    encoder = make_encoder("text", recipe, "cpu")
    assert from_spec(encoder.spec).fingerprint == encoder.fingerprint
    config = adapted(recipe, encoder)
    assert config is not None
    layers = Upper(config).eval()
    layers.load_base(encoder.whole())
    values = [f.values for f in encoder.encode(EXCERPTS)]
    batch = collate([Utterance("")] * len(values), [{"x": x} for x in values])
    states, mask = layers(batch.features["x"], batch.masks["x"])
    for i, wanted in enumerate(frozen):
        assert mask[i].sum() == len(wanted.values)
        # Kept features are rounded; these layers are small and random, and make much of it.
        np.testing.assert_allclose(states[i, mask[i]].detach(), wanted.values, atol=0.15 if upper else 4e-3)
    assert not states[~mask].any()
    alone, _ = layers(
        *(torch.from_numpy(x)[None] for x in (values[2].astype(np.float32), np.ones(len(values[2]), bool)))
    )
    np.testing.assert_allclose(alone[0].detach(), states[2, mask[2]].detach(), atol=2e-3)
    gradient = torch.autograd.grad(states[0, 1].square().sum(), list(layers.layers.parameters()), allow_unused=True)
    assert sum(g.abs().sum() for g in gradient if g is not None) > 0


def test_the_same_words_elsewhere_are_other_features(folders, tmp_path):
    rows = [utterance("a", 1.0, text="good"), utterance("b", 2.0, text="bad"), utterance("c", 1.0, "w", text="good")]
    encoder = TextEncoder(str(folders["roberta"]), surrounding_tokens=8)
    for cache in (None, FeatureCache(tmp_path)):
        table = extract(surrounded(rows), {"text": encoder}, cache)
        a, c = table.get("a", "text"), table.get("c", "text")
        assert a is not None
        assert c is not None
        assert np.abs(a.values - c.values).max() > 0.05
    assert len({TextEncoder(str(folders["roberta"]), surrounding_tokens=n).fingerprint for n in (0, 4, 8)}) == 3


def test_a_neighbour_that_is_no_unicode_stops_nothing(folders):
    rows = surrounded([utterance("a", 1.0, text="good \ud800 movie"), utterance("b", 2.0, text="bad")])
    table = extract(rows, {"text": TextEncoder(str(folders["roberta"]), surrounding_tokens=8)}, None)
    assert [failure.id for failure in table.failures] == ["a"]
    assert table.get("b", "text") is not None


# ---- a model that reads them ----


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The tiny corpus, each split in two videos."""
    return write_videos(tmp_path_factory.mktemp("videos"), lambda split, i: f"{split}-video-{i % 2}")


@pytest.fixture(scope="module", params=["frozen", "full", "lora"])
def run(request, corpus, tiny_encoders, tmp_path_factory):
    content = corpus_recipe(tiny_encoders, encoder_learning_rate=1e-3).model_dump()
    content["encoders"]["text"] |= {"surrounding_tokens": 10, "max_tokens": 5, "adapt": request.param}
    content["encoders"]["text"] |= {"upper": 1} if request.param == "lora" else {}
    return train(Recipe.model_validate(content), [corpus[0]], tmp_path_factory.mktemp("run") / "run", cache=None)


def test_prediction_is_the_same_whatever_is_read_with_it(run, corpus, tmp_path):
    bundle = load_bundle(run.folder)
    predictor = Predictor(bundle)
    assert predictor.reads_surroundings
    manifest, rows = corpus
    predict_file(predictor, [manifest], tmp_path / "all.jsonl")
    found = {p["id"]: p for p in map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())}
    scored = evaluate(bundle, [manifest], "test")  # of one split
    for u, sentiment in zip(scored.utterances, scored.sentiment, strict=True):
        assert found[u.id]["sentiment"] == pytest.approx(sentiment, abs=2e-3)
    alone = {p.id: p for p in predictor.predict_many([replace(u, surroundings=None) for u in scored.utterances])}
    texts = [u.id for u in scored.utterances if u.text is not None]
    assert max(abs(alone[i].sentiment - found[i]["sentiment"]) for i in texts) > 5e-3  # they are read
    voices = [u.id for u in scored.utterances if u.text is None]
    assert max(abs(alone[i].sentiment - found[i]["sentiment"]) for i in voices) < 2e-3
    # Another video's words change nothing.
    other = [
        row | {"text": "bad bad movie" if row["text"] else ""} if row["video_id"] == "test-video-1" else row
        for row in rows
    ]
    moved = write_rows(manifest.with_name("moved.csv"), other)
    assert evaluate(bundle, [moved], "test").sentiment[0] == pytest.approx(scored.sentiment[0], abs=1e-6)


def test_the_rows_may_stand_anywhere_where_they_have_times(run, corpus, tmp_path):
    manifest, rows = corpus
    timed = [row | {"start": i, "end": i + 1, "audio": ""} for i, row in enumerate(rows) if row["text"]]
    shuffled = random.Random(0).sample(timed, len(timed))
    predictor = Predictor(load_bundle(run.folder))
    results = []
    for name, content in (("timed", timed), ("shuffled", shuffled)):
        predict_file(predictor, [write_rows(manifest.with_name(f"{name}.csv"), content)], tmp_path / "out.jsonl")
        lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
        results.append({p["id"]: p["sentiment"] for p in lines})
    assert results[0] == pytest.approx(results[1], abs=2e-3)


def test_an_analysis_reads_them(run, corpus):
    from mmolre.recordings.sound import Sound

    texts = ["I love this movie", "a so good", "It was bad", "and so very bad"]
    predictor = Predictor(load_bundle(run.folder))
    sound = Sound(np.zeros(16_000 * 9, np.int16), 9.0)
    moments = score(predictor, [Cut(2.0 * i, 2.0 * i + 2, text, None) for i, text in enumerate(texts)], sound)
    rows = surrounded([utterance(str(i), 2.0 * i, text=text) for i, text in enumerate(texts)])
    wanted = [p.sentiment for p in predictor.predict_many(rows)]
    assert [m.words.sentiment for m in moments] == pytest.approx(wanted, abs=2e-3)


def test_an_explanation_is_of_the_own_words(run):
    bundle = load_bundle(run.folder)
    (row, *_) = surrounded([utterance("a", 1.0, text="i love this"), utterance("b", 2.0, text="bad movie")])
    found = leaf(bundle.encoders["text"], row, bundle.model)
    assert found is not None
    assert found.places == ["i", "love", "this"]
    features = found.features(found.value)
    encoder = bundle.encoders["text"]
    assert isinstance(encoder, TextEncoder)
    (kept,) = encoder.encode([encoder.excerpt(row.text, row.surroundings)])
    if kept.values.shape[-1] == 3:  # ids, where the model runs all layers: both ways to the same
        upper = bundle.model.uppers["text"]
        whole = torch.ones(1, len(kept.values), dtype=torch.bool)
        ours = upper(features, whole)[0]
        theirs = upper(torch.from_numpy(kept.values.astype(np.float32))[None], whole)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    else:
        np.testing.assert_allclose(features[0].detach(), kept.values, atol=4e-3)
    differs = (found.value != found.baseline).any(-1)[0]
    assert differs.sum() == 3  # what is said around stands in the baseline too
    assert found.place_of[differs].tolist() == [0, 1, 2]
