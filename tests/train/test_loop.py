import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mmolre import MMoLRE, Utterance
from mmolre.data.batching import collate, targets
from mmolre.data.dataset import Rows
from mmolre.errors import UserError
from mmolre.model.config import ModalityConfig, ModelConfig
from mmolre.terminal import _epoch_line
from mmolre.train import loop
from mmolre.train.loop import InterruptedRunError, Trainer, content_digest, drop_modalities, schedule
from mmolre.train.precision import products
from mmolre.train.recipe import Recipe
from mmolre.train.teachers import Taught
from tiny_runs import MIXED, SHAPES, tiny_arrays, tiny_recipe, tiny_rows

TRAIN = tiny_rows(24, 1, MIXED, no_sentiment=5, no_emotions=4)
VALID = tiny_rows(12, 2, MIXED, no_emotions=4)


def make(out: Path, recipe: Recipe, train: Rows = TRAIN, valid: Rows = VALID, **callbacks) -> Trainer:
    """A trainer as a fresh process would make it; the best model goes to ``out/best``."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(recipe.seed)
    modalities = {m: ModalityConfig(layers=SHAPES[m][0], width=SHAPES[m][1]) for m in ("text", "audio")}
    model = MMoLRE(ModelConfig(modalities=modalities, **recipe.model.model_dump()))
    torch.manual_seed(12345)  # whatever else draws numbers in the process must not matter
    callbacks.setdefault("save_best", lambda model, _: model.save_pretrained(out / "best"))
    return Trainer(recipe, model, train, valid, out, **callbacks)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def epochs(out: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log(out) if line["event"] == "epoch"]


def same(a: Path, b: Path) -> bool:
    """Bit-identical: best weights, every tensor of the checkpoint, what the log says of the epochs."""
    assert (a / "best" / "model.safetensors").exists()
    left, right = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    assert left.keys() == right.keys()
    return (
        all(torch.equal(x, right[name]) for name, x in left.items())
        and (a / "best" / "model.safetensors").read_bytes() == (b / "best" / "model.safetensors").read_bytes()
        and epochs(a) == epochs(b)
    )


def after(step: int):
    """``should_stop`` that says so once, after this many steps of its process."""
    left = iter([False] * (step - 1) + [True])
    return lambda: next(left)


# ---- learning ----


def test_the_loss_goes_down(tmp_path):
    state = make(tmp_path, tiny_recipe(epochs=8, patience=8, learning_rate=0.01, modality_dropout=0.0)).run()
    lines = epochs(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines[-1]["train"]["loss"] < 0.8 * lines[0]["train"]["loss"]
    assert set(lines[0]["train"]) == {"loss", "sentiment", "emotion", "unimodal", "balance"}
    assert max(line["score"] for line in lines) == state["best_score"]
    assert lines[0]["score"] == pytest.approx(-lines[0]["valid"]["sentiment"]["mae"])
    assert "macro_f1" in lines[0]["valid"]["emotion"]
    started = log(tmp_path)[0]
    assert (started["event"], started["utterances"]) == ("started", 24)
    assert started["score"] < state["best_score"]


def test_teachers_that_repeat_the_labels_change_nothing(tmp_path):
    """So each utterance is taught what was said of it, in parts of a batch too."""
    recipe = tiny_recipe(accumulate=2)
    taught = Taught(*targets(TRAIN.utterances))
    make(tmp_path / "labels", recipe).run()
    make(tmp_path / "both", recipe, taught=taught).run()
    make(tmp_path / "wrong", recipe, taught=taught.of(list(range(24))[::-1])).run()
    labels, both, wrong = (load_file(tmp_path / name / "last.safetensors") for name in ("labels", "both", "wrong"))
    for name, tensor in labels.items():
        torch.testing.assert_close(tensor, both[name], msg=name)
    assert any(not torch.allclose(tensor, wrong[name]) for name, tensor in labels.items())


def test_progress_is_reported_after_each_step(tmp_path):
    seen = []
    make(tmp_path, tiny_recipe(), report=seen.append).run()
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(1 + i // 3, i + 1, 6) for i in range(6)]
    assert all(np.isfinite(list(p.losses.values())).all() for p in seen)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [{}, {"routing": "token", "fusion": "shared"}, {"blocks": 0}])
def test_models_of_every_kind_train(tmp_path, monkeypatch, precision, model):
    monkeypatch.setattr(loop, "precision_on", lambda _, wanted: wanted)  # emulated, if need be
    assert make(tmp_path, tiny_recipe(epochs=1, precision=precision, model=model)).run()["finished"]


@pytest.mark.parametrize("own", [True, False])
def test_a_run_says_in_what_it_computes(tmp_path, monkeypatch, capsys, own):
    monkeypatch.setattr(loop, "precision_on", lambda _, wanted: wanted if own else "fp32")
    used = []
    monkeypatch.setattr(
        loop, "products", lambda device, precision: used.append(precision) or products(device, precision)
    )
    recipe = tiny_recipe(epochs=1, precision="bf16")
    make(tmp_path, recipe, log_line=_epoch_line).run()
    started = log(tmp_path)[0]
    assert (started["precision"], started.get("instead_of")) == (("bf16", None) if own else ("fp32", "bf16"))
    assert set(used) == {started["precision"]}
    assert ("fp32 instead of bf16" in capsys.readouterr().err) == (not own)


@pytest.mark.parametrize("task", ["sentiment", "emotion"])
def test_one_task_trains_on_data_that_label_both(tmp_path, task):
    primary = {"sentiment": "sentiment.mae", "emotion": "emotion.macro_f1"}[task]
    make(tmp_path, tiny_recipe(epochs=1, primary=(primary,), model={"tasks": (task,)})).run()
    (line,) = epochs(tmp_path)
    assert set(line["valid"]) == {task}
    assert set(line["train"]) == {"loss", task, "unimodal", "balance"}


def test_learned_task_weights_are_trained_and_kept(tmp_path):
    recipe = tiny_recipe(more={"objective": {"balance_tasks": "uncertainty"}})
    make(tmp_path, recipe).run()
    kept = load_file(tmp_path / "last.safetensors")
    assert all(kept[f"objective.log_variance.{task}"].item() != 0 for task in ("sentiment", "emotion"))


# ---- randomness ----


def test_same_seed_same_result_other_seed_other_result(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path / name, tiny_recipe(seed=seed, model={"dropout": 0.2})).run()
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_each_epoch_has_every_utterance_once_in_an_order_of_its_own(tmp_path, monkeypatch):
    seen = []

    def watch(utterances, arrays):
        seen.append([u.id for u in utterances])
        return collate(utterances, arrays)

    monkeypatch.setattr(loop, "collate", watch)
    make(tmp_path, tiny_recipe()).run()
    first, second = seen[:3], seen[3:]
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch) == sorted(u.id for u in TRAIN.utterances)
    assert first != second


def test_utterances_are_repeated_by_their_modalities(tmp_path, monkeypatch):
    seen = []

    def watch(utterances, arrays):
        seen.extend(u.id for u in utterances)
        return collate(utterances, arrays)

    monkeypatch.setattr(loop, "collate", watch)
    make(tmp_path, tiny_recipe(epochs=1, repeat={"audio": 3, "text+audio": 2})).run()
    times = {("text", "audio"): 2, ("text",): 1, ("audio",): 3}
    for utterance, present in zip(TRAIN.utterances, TRAIN.arrays, strict=True):
        assert seen.count(utterance.id) == times[tuple(present)]


# ---- resuming ----

EXACT = {"epochs": 3, "patience": 3, "ema": 0.9, "modality_dropout": 0.5, "model": {"dropout": 0.2}}
EXACT["more"] = {"objective": {"balance_tasks": "uncertainty"}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    make(out, tiny_recipe(**EXACT)).run()
    return out


@pytest.mark.parametrize("steps", [(1,), (2, 1, 1), (3,), (4, 2), (9,)], ids=str)
def test_stopped_and_resumed_is_bit_identical(tmp_path, uninterrupted, steps):
    """3 steps an epoch: stopped in the middle, after an epoch's last step, several times, after the very last."""
    for step in steps:
        with pytest.raises(InterruptedRunError):
            make(tmp_path, tiny_recipe(**EXACT), should_stop=after(step)).run()
    assert make(tmp_path, tiny_recipe(**EXACT)).run()["step"] == 9
    assert same(tmp_path, uninterrupted)
    assert [line["epoch"] for line in epochs(tmp_path)] == [1, 2, 3]
    assert [line["event"] for line in log(tmp_path)].count("resumed") == len(steps)


@pytest.mark.parametrize("where", ["second step", "step in epoch 2", "saving the best", "before the checkpoint"])
def test_killed_and_resumed_is_bit_identical(tmp_path, uninterrupted, where):
    """Killed with no warning: what was done since the last checkpoint is done again, and logged once."""

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    trainer = make(tmp_path, tiny_recipe(**EXACT))
    if "step" in where:
        at = 2 if where == "second step" else 5
        trainer.report = lambda p: kill() if p.step == at else None
    elif where == "saving the best":
        trainer.save_best = kill
    else:  # after the second epoch's line in the log
        save = trainer._save
        trainer._save = lambda: kill() if trainer.state["epoch"] == 2 else save()
    with pytest.raises(Killed):
        trainer.run()
    make(tmp_path, tiny_recipe(**EXACT)).run()
    assert same(tmp_path, uninterrupted)
    assert [line["epoch"] for line in epochs(tmp_path)] == [1, 2, 3]
    assert len([line for line in log(tmp_path) if line["event"] == "started"]) == 1


def test_checkpoints_in_the_middle_of_an_epoch_by_the_clock(tmp_path, uninterrupted):
    recipe = tiny_recipe(**EXACT, checkpoint_minutes=1e-9)
    trainer = make(tmp_path, recipe)
    trainer.report = lambda p: 1 / 0 if p.step == 5 else None
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    resumed = make(tmp_path, recipe)
    resumed.run()
    assert [line["step"] for line in log(tmp_path) if line["event"] == "resumed"] == [4]
    assert same(tmp_path, uninterrupted)


def test_a_run_begun_with_other_data_is_not_continued(tmp_path):
    trainer = make(tmp_path, tiny_recipe(epochs=2))
    trainer.should_stop = lambda: trainer.state["step"] == 1
    with pytest.raises(InterruptedRunError):
        trainer.run()
    kept = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(UserError, match="begun with other data"):
        make(tmp_path, tiny_recipe(epochs=2), valid=tiny_rows(6, 5)).run()
    assert (tmp_path / "last.safetensors").read_bytes() == kept


def test_other_texts_are_other_data(tmp_path):
    rows = tiny_rows(6, 1)
    make(tmp_path, tiny_recipe(), valid=rows).run()
    make(tmp_path, tiny_recipe(), valid=rows).run()  # finished
    words = [replace(u, text="other words") for u in rows.utterances]
    with pytest.raises(UserError, match="begun with other data"):
        make(tmp_path, tiny_recipe(), valid=Rows(words, rows.arrays)).run()


def test_other_ready_made_features_are_other_data():
    rows = tiny_rows(6, 1)
    changed = [dict(x) for x in rows.arrays]
    changed[2]["text"] = changed[2]["text"] + 1
    other = Rows(rows.utterances, changed)
    digests = [[content_digest(TRAIN, of, made) for of in (rows, other)] for made in ({"text"}, {"audio"})]
    assert digests[0][0] != digests[0][1]
    assert digests[1][0] == digests[1][1]  # what an encoder gave is known by what it was given


def test_what_an_encoder_gives_may_differ_in_the_last_bit(tmp_path):
    rows = tiny_rows(6, 1)
    make(tmp_path, tiny_recipe(), valid=rows).run()
    near = Rows(rows.utterances, [{m: np.nextafter(x, x + 1) for m, x in of.items()} for of in rows.arrays])
    make(tmp_path, tiny_recipe(), valid=near).run()


def test_a_finished_run_is_left_alone(tmp_path):
    first = make(tmp_path, tiny_recipe()).run()
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    again = make(tmp_path, tiny_recipe(), report=lambda _: pytest.fail("trained")).run()
    assert again == first
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_damaged_checkpoint_and_that_of_another_model(tmp_path):
    with pytest.raises(InterruptedRunError):
        make(tmp_path, tiny_recipe(), should_stop=after(1)).run()
    with pytest.raises(UserError, match=r"cannot go on from .*last.safetensors.*give another --out") as error:
        make(tmp_path, tiny_recipe(model={"width": 8})).run()
    assert "\n" not in str(error.value)
    whole = (tmp_path / "last.safetensors").read_bytes()
    for content in (b"", whole[:50], whole[:-1], whole.replace(b"__metadata__", b"__netadata__")):
        (tmp_path / "last.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="cannot go on from"):
            make(tmp_path, tiny_recipe()).run()


# ---- what may go wrong ----


def spoil(rows: Rows, index: int, value: float) -> Rows:
    arrays = [{m: x.copy() for m, x in present.items()} for present in rows.arrays]
    for x in arrays[index].values():
        x[0] = value
    return Rows(rows.utterances, arrays)


def test_a_loss_that_is_not_a_number_names_the_batch_and_keeps_the_checkpoint(tmp_path):
    bad = spoil(TRAIN, 7, float("nan"))
    with pytest.raises(InterruptedRunError):
        make(tmp_path, tiny_recipe(), should_stop=after(3)).run()
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(UserError) as error:
        make(tmp_path, tiny_recipe(), train=bad).run()
    message = str(error.value)
    assert "\n" not in message
    assert "epoch 2" in message
    assert "'sentiment': nan" in message
    last = log(tmp_path)[-1]
    assert last["event"] == "nan"
    assert TRAIN.utterances[7].id in last["ids"]
    assert set(last["ids"][:8]) <= set(message.replace(",", " ").replace(";", " ").split())
    after_first_epoch = load_file(tmp_path / "last.safetensors")
    assert all(torch.isfinite(x).all() for x in after_first_epoch.values())
    assert (tmp_path / "best" / "model.safetensors").exists()
    assert before != (tmp_path / "last.safetensors").read_bytes()  # the first epoch was finished and kept


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_spoiled(tmp_path):
    trainer = make(tmp_path, tiny_recipe())
    head = trainer.model.heads["sentiment"]
    head.register_full_backward_hook(lambda *_: (torch.full((8, 16), float("inf")),))
    with pytest.raises(UserError, match=r"gradient is not finite at epoch 1, step 0 .*in the batch of utterances u1-"):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_metric_without_labels_on_valid_is_refused_before_training(tmp_path):
    unlabelled = tiny_rows(6, 2, no_emotions=1)
    trainer = make(tmp_path, tiny_recipe(primary=("emotion.macro_f1",)), valid=unlabelled)
    trainer.report = lambda _: pytest.fail("trained")
    with pytest.raises(UserError, match="no valid utterance has a label of emotion"):
        trainer.run()


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(InterruptedRunError):
        make(tmp_path, tiny_recipe(), should_stop=after(1)).run()
    before = (tmp_path / "last.safetensors").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="is full: free some space and run the same command again"):
            make(tmp_path, tiny_recipe(), should_stop=after(1)).run()
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.safetensors", "log.jsonl"]
    make(tmp_path, tiny_recipe()).run()
    make(tmp_path / "whole", tiny_recipe()).run()
    assert same(tmp_path, tmp_path / "whole")


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "run").mkdir()
    trainer = make(tmp_path / "run", tiny_recipe())
    trainer.out = tmp_path / "gone"
    with pytest.raises(UserError, match=r"cannot write .*log.jsonl"):
        trainer.run()


# ---- the score, the schedule, the average ----


def scores(trainer: Trainer, values: list[float]) -> list[int]:
    """Run with these scores on valid (the first is the one before training); returns the epochs that were best."""
    real, given, best = trainer.validate, iter(values), []
    trainer.validate = lambda: real()._replace(score=next(given))
    trainer.save_best = lambda *_: best.append(trainer.state["epoch"])
    trainer.run()
    return best


def test_early_stopping_and_the_best_epoch(tmp_path):
    trainer = make(tmp_path, tiny_recipe(epochs=9, patience=2))
    assert scores(trainer, [9.0, 0.1, 0.3, 0.2, 0.3, 1.0]) == [1, 2]  # an equal score is no better
    assert (trainer.state["epoch"], trainer.state["best_epoch"], trainer.state["finished"]) == (4, 2, True)
    assert [line["best"] for line in epochs(tmp_path)] == [True, True, False, False]


def test_the_last_epoch_is_kept_where_the_recipe_says_so(tmp_path):
    trainer = make(tmp_path, tiny_recipe(epochs=4, patience=1, keep="last"))
    assert scores(trainer, [0.0, 0.9, 0.1, 0.2, 0.1]) == [1, 2, 3, 4]
    assert (trainer.state["epoch"], trainer.state["best_epoch"]) == (4, 4)


def test_patience_counts_from_the_best_epoch(tmp_path):
    trainer = make(tmp_path, tiny_recipe(epochs=5, patience=2))
    assert scores(trainer, [0.0, 0.1, 0.0, 0.2, 0.1, 0.3]) == [1, 3, 5]


def test_the_score_is_the_mean_of_the_primary_metrics_those_to_be_minimised_negated(tmp_path):
    trainer = make(tmp_path, tiny_recipe(primary=("sentiment.mae", "sentiment.corr", "emotion.hamming")))
    validation = trainer.validate()
    sentiment, emotion = validation.metrics["sentiment"], validation.metrics["emotion"]
    assert validation.score == pytest.approx((-sentiment["mae"] + sentiment["corr"] - emotion["hamming"]) / 3)


def test_schedule_by_hand():
    rates = [schedule(step, 10, 0.2) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx(0.5 * (1 + np.cos(np.pi * 7 / 8)))
    assert schedule(0, 10, 0.0) == 1
    assert schedule(0, 1, 0.9) > 0


def test_learning_rate_and_weight_decay_reach_the_optimizer(tmp_path):
    rates = []
    trainer = make(tmp_path, tiny_recipe(learning_rate=0.01, warmup=0.5, weight_decay=0.3))
    trainer.report = lambda _: rates.append([group["lr"] for group in trainer.optimizer.param_groups])
    trainer.run()
    assert rates == [[0.01 * schedule(step, 6, 0.5)] * 2 for step in range(6)]
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    named = dict(trainer.model.named_parameters())
    assert len(decay) == len(named)
    assert decay[id(named["heads.emotion.out.weight"])] == 0.3
    assert decay[id(named["heads.emotion.out.bias"])] == 0
    assert decay[id(named["unitse.text.norm.weight"])] == 0


def test_gradients_are_clipped(tmp_path):
    seen = []
    trainer = make(tmp_path, tiny_recipe(clip=1e-3, epochs=1))
    step = trainer.optimizer.step

    def look(*args, **kwargs):
        squares = [p.grad.square().sum() for p in trainer.model.parameters() if p.grad is not None]
        seen.append(torch.stack(squares).sum().sqrt().item())
        return step(*args, **kwargs)

    trainer.optimizer.step = look
    trainer.run()
    assert seen == pytest.approx([1e-3] * 3, rel=1e-3)


def test_the_averaged_weights_are_validated_and_saved(tmp_path):
    """By hand: the average of step s moves to the weights by 1 - min(ema, (1 + s) / (10 + s))."""
    history, saved = [], []
    trainer = make(tmp_path, tiny_recipe(ema=0.3, epochs=1), save_best=lambda model, _: saved.append(model))
    name = "heads.sentiment.out.weight"
    history.append(dict(trainer.model.named_parameters())[name].detach().clone())
    trainer.report = lambda _: history.append(dict(trainer.model.named_parameters())[name].detach().clone())
    trainer.run()
    average = history[0]
    for step, weights in enumerate(history[1:]):
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
    (model,) = saved
    torch.testing.assert_close(dict(model.named_parameters())[name].detach(), average)
    assert not torch.equal(average, history[-1])
    assert not model.training


# ---- modality dropout ----


@settings(max_examples=30)
@given(st.floats(0, 1), st.integers(0, 1000))
def test_modality_dropout_never_takes_the_only_one_and_leaves_the_labels(chance, seed):
    torch.manual_seed(seed)
    sets = (("text", "audio", "video"), ("text",), ("audio", "video"), ("video",))
    rows = tiny_rows(8, 3, sets, no_sentiment=3)
    batch = collate(rows.utterances, rows.arrays)
    dropped = drop_modalities(batch, chance)
    assert dropped.ids == batch.ids
    assert dropped.sentiment is batch.sentiment
    assert dropped.emotions is batch.emotions
    assert dropped.features is batch.features
    had = torch.stack([m.any(1) for m in batch.masks.values()])
    has = torch.stack([m.any(1) for m in dropped.masks.values()])
    assert (has <= had).all()
    for before, now in zip(had.sum(0).tolist(), has.sum(0).tolist(), strict=True):
        assert now in (1, before)
    for name, mask in batch.masks.items():  # whole or not at all
        kept = dropped.masks[name].any(1)
        assert torch.equal(dropped.masks[name], mask & kept[:, None])


def test_modality_dropout_by_its_chance():
    torch.manual_seed(0)
    batch = collate([Utterance(str(i)) for i in range(2000)], tiny_arrays(20) * 100)
    for chance in (0.0, 0.3, 1.0):
        masks = drop_modalities(batch, chance).masks
        text, audio = (masks[m].any(1).float().mean().item() for m in ("text", "audio"))
        assert text == pytest.approx(1 - chance / 2, abs=0.03)
        assert audio == pytest.approx(1 - chance / 2, abs=0.03)


@pytest.mark.parametrize("parts", [2, 4, 12])
def test_the_labels_of_a_step_count_alike_in_whatever_part_they_are(tmp_path, parts):
    """Few have a sentiment: the mean over them is of the batch, not of the parts that have any."""
    rows = tiny_rows(12, 3)
    few = Rows(
        [replace(u, sentiment=u.sentiment if i in (0, 7, 8) else None) for i, u in enumerate(rows.utterances)],
        rows.arrays,
    )
    found = []
    for accumulate in (1, parts):
        plain = {"dropout": 0.0, "unimodal_heads": False}
        recipe = tiny_recipe(
            accumulate=accumulate,
            batch_size=12,
            epochs=1,
            modality_dropout=0.0,
            clip=1e9,
            model=plain,
            more={"objective": {"router_balance": 0.0}},
        )
        trainer = make(tmp_path / str(accumulate), recipe, few)
        trainer.run()
        found.append(([p.grad for p in trainer.model.parameters()], epochs(tmp_path / str(accumulate))[-1]["train"]))
    (whole, logged), (summed, logged_by_parts) = found
    for name in ("loss", "sentiment", "emotion"):
        assert logged_by_parts[name] == pytest.approx(logged[name], rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, summed, strict=True) if a is not None)


def test_logged_losses_are_means_over_labels(tmp_path):
    """Batches of one set of modalities, of which one has no sentiment at all, do not make the mean smaller."""
    rows = tiny_rows(24, 1, (("text",), ("audio",)))
    spoken = [replace(u, sentiment=None) if i % 2 else u for i, u in enumerate(rows.utterances)]
    plain = {"dropout": 0.0, "unimodal_heads": False}
    recipe = tiny_recipe(epochs=1, batch_size=4, learning_rate=1e-12, ema=0, model=plain)
    trainer = make(tmp_path, recipe, Rows(spoken, rows.arrays))
    batch = collate(spoken, rows.arrays)
    with torch.no_grad():
        said = trainer.model.eval()(batch.features, batch.masks).tasks["sentiment"]
    trainer.run()
    expected = (said - batch.sentiment).abs().nanmean().item()
    assert epochs(tmp_path)[0]["train"]["sentiment"] == pytest.approx(expected, rel=1e-4)
