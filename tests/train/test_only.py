"""Training the parts of one modality alone, beside a model that stays as it is."""

import numpy as np
import pytest

from mmolre import UserError
from mmolre.inference import infer
from mmolre.train.adaptation import parameter_groups
from mmolre.train.loop import Trainer
from mmolre.train.recipe import parse_recipe
from mmolre.train.start import take_weights
from tiny_runs import MIXED, tiny_arrays, tiny_model, tiny_recipe, tiny_rows

STARTED = {"start_from": "somewhere"}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_the_others_say_stays(tmp_path, ema):
    model = tiny_model()
    arrays = tiny_arrays(12, sets=MIXED)
    before = infer(model, arrays)
    kept = {}
    recipe = tiny_recipe(more=STARTED, only=("audio",), ema=ema)
    trainer = Trainer(
        recipe,
        model,
        tiny_rows(40, sets=MIXED),
        tiny_rows(12, 1, MIXED),
        tmp_path,
        save_best=lambda m, _: kept.update(model=m),
    )
    trainer.run()
    after = infer(kept["model"].eval(), arrays)
    np.testing.assert_array_equal(after.alone["text"], before.alone["text"])
    np.testing.assert_array_equal(after.alone_sentiment["text"], before.alone_sentiment["text"])
    heard = ~np.isnan(before.alone_sentiment["audio"])
    assert (np.abs(after.alone_sentiment["audio"] - before.alone_sentiment["audio"])[heard] > 1e-4).all()
    assert (np.abs(after.logits - before.logits)[heard] > 1e-5).all()


def test_what_learns():
    model = tiny_model()
    groups = parameter_groups([model], tiny_recipe(more=STARTED, only=("audio",)).training, {})
    learning = {id(p) for group in groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in learning}
    assert {name.split(".")[0] for name in names} == {"inputs", "unitse", "unimodal_heads"}
    assert all("audio" in name.split(".") for name in names)
    rest = {name for name, _ in model.named_parameters()} - names
    assert {"placeholders.audio", "placeholders.text"} <= rest
    assert {name.split(".")[0] for name in rest if "audio" in name.split(".")} == {"fusion", "placeholders"}


def test_gradients_of_what_stays_do_not_pile_up(tmp_path):
    model = tiny_model()
    recipe = tiny_recipe(more=STARTED, only=("audio",), epochs=1)
    trainer = Trainer(recipe, model, tiny_rows(24), tiny_rows(12, 1), tmp_path, save_best=lambda *_: None)
    found = []

    def marked(_):
        gradient = model.heads["sentiment"].out.weight.grad
        found.append(gradient.abs().max().item())
        gradient.fill_(1e6)

    trainer.report = marked
    trainer.run()
    assert len(found) == 3
    assert max(found) < 1e3


def test_not_seen_at_all(tmp_path):
    recipe = tiny_recipe(repeat={"text": 0, "audio": 2})
    rows = tiny_rows(30, sets=MIXED)
    trainer = Trainer(recipe, tiny_model(), rows, tiny_rows(6, 1), tmp_path, save_best=lambda *_: None)
    seen = [tuple(rows.arrays[i]) for batch in trainer._epoch_batches() for i in batch]
    assert sorted(seen) == sorted([("audio",)] * 20 + [("text", "audio")] * 10)
    nothing = tiny_recipe(repeat={"text": 0, "audio": 0, "text+audio": 0})
    with pytest.raises(UserError, match=r"training\.repeat leaves no utterance"):
        Trainer(nothing, tiny_model(), rows, tiny_rows(6, 1), tmp_path, save_best=lambda *_: None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": {"only": ["audio"]}, "start_from": "a"}, r"training\.only: audio is no modality"),
        ({"training": {"only": ["text"]}}, r"training\.only needs start_from"),
        ({"start_fresh": ["audio"], "start_from": "a"}, r"start_fresh: audio is no modality"),
        ({"start_fresh": ["text"]}, r"start_fresh needs start_from"),
        (
            {"features": {"face": {}}, "training": {"only": ["face"]}, "start_fresh": ["text"], "start_from": "a"},
            r"start_fresh: text would never learn",
        ),
    ],
)
def test_refused(content, message):
    with pytest.raises(UserError, match=message):
        parse_recipe({"name": "a", "encoders": {"text": {"source": "minilm"}}} | content, "r.yaml")


@pytest.mark.parametrize("lacks", [{"modalities": ("text",)}, {"tasks": ("sentiment",)}])
def test_what_would_never_learn_must_have_learned(tmp_path, lacks):
    """Placeholders, fusion or heads that the earlier model lacks would stay as they were drawn."""
    tiny_model(**lacks).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"model lacks \S+ and \d+ more that, by training\.only, would never learn"):
        take_weights(tiny_model(seed=1), str(tmp_path / "model"), only=("audio",))
    take_weights(tiny_model(seed=1), str(tmp_path / "model"))
    tiny_model().save_pretrained(tmp_path / "whole")
    take_weights(tiny_model(seed=1), str(tmp_path / "whole"), ("audio",), only=("audio",))
