import numpy as np
import pytest
import torch

from mmolre import UserError
from mmolre.data.batching import collate
from mmolre.data.dataset import Rows
from mmolre.explain import routing
from mmolre.explain.routing import decisions, jensen_shannon, summarize
from mmolre.schema import EMOTIONS, Utterance
from mmolre.train.recipe import Recipe
from mmolre.train.run import make_model, make_sources
from tiny_corpus import corpus_recipe
from tiny_runs import MIXED, tiny_model, tiny_rows

ROWS = tiny_rows(14, 3, MIXED, no_emotions=4)


@pytest.mark.parametrize("how", ["utterance", "token"])
def test_as_one_utterance_after_another(how):
    model = tiny_model(routing=how)
    found = decisions(model, *ROWS, batch_size=5)
    assert len(found) == 2 * 2 * 2
    for (modality, block, task), made in found.items():
        expected = []
        for i, (utterance, present) in enumerate(zip(*ROWS, strict=True)):
            if modality not in present:
                continue
            one = collate([utterance], [present])
            with torch.no_grad():
                records = model(one.features, one.masks).routing
            (record,) = (r for r in records if (r.modality, r.block + 1, r.task) == (modality, block, task))
            gates = record.gates[0].numpy()
            gates = gates.mean(0) if how == "token" else gates
            expected.append(gates / gates.sum())
            assert i in made.rows
        assert len(expected) == len(made.rows)
        np.testing.assert_allclose(made.shares, expected, atol=1e-5)
        if how == "utterance":
            assert ((made.shares > 0).sum(1) == 2).all()


def test_summary_by_hand():
    model = tiny_model()
    found = decisions(model, *ROWS)
    summary = summarize(model, ROWS.utterances, found)
    assert (summary["ranks"], summary["top_k"], summary["utterances"]) == ([2, 1, 3], 2, 14)
    place = next(p for p in summary["places"] if (p["modality"], p["block"]) == ("text", 2))
    a, b = (found["text", 2, task].shares for task in ("sentiment", "emotion"))
    rows = found["text", 2, "emotion"].rows
    happy = [i for i, row in enumerate(rows) if (ROWS.utterances[row].emotions[0] or 0) > 0]
    assert EMOTIONS[0] == "happy"
    assert place["of_emotions"]["happy"]["n"] == len(happy) > 0
    np.testing.assert_allclose(place["of_emotions"]["happy"]["shares"]["emotion"], b[happy].mean(0))
    np.testing.assert_allclose(place["shares"]["sentiment"], a.mean(0))
    both = [len({*np.flatnonzero(x)} & {*np.flatnonzero(y)}) / 2 for x, y in zip(a, b, strict=True)]
    assert place["difference"]["same_kept"] == pytest.approx(np.mean(both))
    divergences = [jensen_shannon(x, y) for x, y in zip(a, b, strict=True)]
    assert place["difference"]["divergence"] == pytest.approx(np.mean(divergences))
    assert 0 < place["balance"]["emotion"] <= 1


def test_divergence_by_hand():
    assert jensen_shannon(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    # Half of (1 log 4/3) + half of (1/2 log 2 + 1/2 log 2/3), in bits.
    expected = 0.5 * np.log2(4 / 3) + 0.25 * (np.log2(2) + np.log2(2 / 3))
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(expected)


def test_ple_and_one_task_have_routers_too():
    ple = tiny_model(trunk="ple", top_k=3)
    assert all(made.shares.shape[1] == 3 for made in decisions(ple, *ROWS).values())
    shares = np.full((4, 3), 1 / 3)
    even = {("text", 1, "sentiment"): routing.Decisions(shares, np.full((4, 3), 0.25), np.arange(4))}
    (place,) = summarize(tiny_model(trunk="ple", top_k=3, tasks=("sentiment",)), ROWS.utterances, even)["places"]
    assert place["balance"]["sentiment"] == pytest.approx(1)  # its own expert has the other quarter
    one = tiny_model(tasks=("sentiment",))
    assert "difference" not in summarize(one, ROWS.utterances, decisions(one, *ROWS))["places"][0]


@pytest.mark.parametrize("change", [{"routing": "uniform"}, {"shared_ranks": (), "top_k": 1}, {"blocks": 0}])
def test_without_routers(change):
    with pytest.raises(UserError, match="no routers"):
        decisions(tiny_model(**change), *ROWS)


def test_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    model = tiny_model()
    files = routing.figure(tmp_path / "routing", "tiny", summarize(model, ROWS.utterances, decisions(model, *ROWS)))
    svg = files[1].read_text()
    assert [file.name for file in files] == ["routing.png", "routing.svg"]
    assert all(text in svg for text in ("sentiment: all", "emotion: happy", "audio, block 2", "bits"))


@pytest.mark.parametrize("how", ["utterance", "token"])
def test_an_encoder_that_adapts_may_pool_its_steps(tiny_encoders, how):
    """The gates per token are of what leaves it: fewer than what enters."""
    recipe = corpus_recipe(tiny_encoders).model_dump()
    kept = {key: recipe["encoders"]["audio"][key] for key in ("source", "layers")}
    recipe["encoders"] = {"audio": kept | {"stride": 4, "adapt": "full", "upper": 1, "standardize": False}}
    recipe["model"]["routing"] = how
    parsed = Recipe.model_validate(recipe)
    sources = make_sources(parsed)
    waves = [np.random.default_rng(i).normal(size=3000 + 800 * i).astype(np.float32) for i in range(3)]
    arrays = [{"audio": sources["audio"].encode([wave])[0].values} for wave in waves]  # type: ignore[union-attr]
    model = make_model(parsed, sources, Rows([], arrays)).eval()
    utterances = [Utterance(f"u{i}") for i in range(3)]
    together = decisions(model, utterances, arrays)
    for i in range(3):
        alone = decisions(model, utterances[i : i + 1], arrays[i : i + 1])
        for place, made in together.items():
            np.testing.assert_allclose(made.shares[i], alone[place].shares[0], atol=1e-5)
