import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmolre.data.batching import Batch, collate
from mmolre.model.mmolre import Output
from mmolre.train.objective import Objective, emotion_loss, imitation_loss, sentiment_loss
from mmolre.train.recipe import ObjectiveRecipe
from mmolre.train.teachers import Taught
from tiny_runs import MIXED, tiny_model, tiny_rows

NAN = float("nan")
BOTH = ("sentiment", "emotion")


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def make(tasks: tuple[str, ...] = BOTH, **settings) -> Objective:
    return Objective(ObjectiveRecipe.model_validate({"unimodal": 0, "router_balance": 0} | settings), tasks)


def output(sentiment: Tensor, emotions: Tensor, unimodal=None, balance: float = 0.0) -> Output:
    tasks = {"sentiment": sentiment, "emotion": emotions}
    return Output(tasks, unimodal or {"sentiment": {}, "emotion": {}}, {}, torch.tensor(balance), [], {})


def labels(sentiment: list[float], emotions: list[list[float]]) -> Batch:
    ids = [str(i) for i in range(len(sentiment))]
    return Batch(ids, {}, {}, torch.tensor(sentiment), torch.tensor(emotions).view(len(ids), 6))


def test_sentiment_by_hand():
    assert sentiment_loss(torch.tensor([1.0, -1.0, 5.0]), torch.tensor([2.5, -1.5, NAN])).mean().item() == 1.0
    assert sentiment_loss(torch.tensor([1.0]), torch.tensor([NAN])).mean().item() == 0


def test_emotion_by_hand():
    truth = torch.tensor([[1 / 3, 0, 3, NAN, NAN, NAN], [NAN] * 6])
    logits = torch.tensor([[2.0, 1, 0, 9, 9, 9], [9.0] * 6])
    expected = (softplus(-2) + softplus(1) + math.log(2)) / 3
    assert emotion_loss(logits, truth).mean().item() == pytest.approx(expected)
    assert emotion_loss(logits, torch.full((2, 6), NAN)).mean().item() == 0


def test_exclusive_emotions_by_hand():
    one = [0.0, 0, 2, 0, 0, 0]
    truth = torch.tensor([one, [0.0] * 6, [1.0, 1, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, NAN], one])
    logits = torch.tensor([[1.0, -1, 2, 0, 0.5, -2]] * 5)
    among = math.log(1 + logits[0].exp().sum().item())  # the 1 is none's
    cells = [softplus(z) for z in logits[0].tolist()]
    rows = [
        among - 2,  # the third
        among,  # none
        sum(cells) - 1 + 1,  # two at once, logits 1 and -1: as ever
        sum(cells[:5]) - 1,  # not all labelled: as ever
        sum(cells) - 2,  # not said to be exclusive
    ]
    exclusive = torch.tensor([True, True, True, True, False])
    assert emotion_loss(logits, truth, exclusive).mean().item() == pytest.approx(sum(rows) / 29)


def test_exclusive_sets_are_those_an_utterance_has_in_the_step():
    masks = {"text": torch.tensor([[True], [False], [True]]), "audio": torch.tensor([[True], [True], [False]])}
    batch = labels([NAN] * 3, [[0.0, 0, 2, 0, 0, 0]] * 3)._replace(masks=masks)
    logits = torch.arange(18.0).view(3, 6) / 9
    expected = emotion_loss(logits, batch.emotions, torch.tensor([False, True, False])).mean()
    got = make(("emotion",), exclusive=["audio"])(output(torch.zeros(3), logits), batch)
    assert got.total.item() == pytest.approx(expected.item())
    both = make(("emotion",), exclusive=["text+audio"])
    expected = emotion_loss(logits, batch.emotions, torch.tensor([True, False, False])).mean()
    assert both(output(torch.zeros(3), logits), batch).total.item() == pytest.approx(expected.item())
    no_text = batch._replace(masks={"audio": masks["audio"]})
    expected = emotion_loss(logits, batch.emotions).mean()
    assert both(output(torch.zeros(3), logits), no_text).total.item() == pytest.approx(expected.item())


def test_exclusive_reaches_the_unimodal_heads():
    batch = labels([NAN, NAN], [[0.0, 0, 2, 0, 0, 0]] * 2)._replace(masks={"audio": torch.ones(2, 1).bool()})
    head = torch.arange(6.0)[None]
    unimodal = {"sentiment": {}, "emotion": {"audio": (head, torch.tensor([1]))}}
    objective = make(("emotion",), exclusive=["audio"], unimodal=1, emotion=1)
    found = objective(output(torch.zeros(2), torch.zeros(2, 6), unimodal), batch).parts["unimodal"]
    expected = emotion_loss(head, batch.emotions[1:], torch.tensor([True])).mean()
    assert found.item() == pytest.approx(expected.item())


@given(st.lists(st.booleans(), min_size=5, max_size=5), st.floats(-1e6, 1e6))
def test_unlabelled_cells_have_no_part_in_value_or_gradient(known, anything):
    torch.manual_seed(0)
    mask = torch.tensor(known)
    exclusive = lambda x, y: emotion_loss(x, y, torch.ones(len(x), dtype=torch.bool))  # noqa: E731
    for loss, shape in ((sentiment_loss, (5,)), (emotion_loss, (5, 6)), (exclusive, (5, 6))):
        prediction = torch.randn(shape)
        truth = torch.randn(shape)
        if loss is exclusive:
            truth[:, 1:] = 0
        truth[~mask] = NAN
        spoiled = prediction.clone()
        spoiled[~mask] = anything
        prediction.requires_grad_()
        spoiled.requires_grad_()
        value = loss(prediction, truth).mean()
        assert torch.equal(loss(spoiled, truth).mean(), value)
        if mask.any():
            torch.testing.assert_close(value, loss(prediction[mask], truth[mask]).mean())
        for leaf in (prediction, spoiled):
            (gradient,) = torch.autograd.grad(loss(leaf, truth).mean(), leaf)
            assert torch.isfinite(gradient).all()
            assert (gradient[~mask] == 0).all()
            assert mask.sum() == 0 or (gradient[mask] != 0).any()


def test_total_by_hand():
    batch = labels([1.0, NAN], [[NAN] * 6, [1.0, 0, 0, 0, 0, 0]])
    made = output(
        torch.tensor([3.0, 7.0]),
        torch.zeros(2, 6),
        unimodal={
            "sentiment": {"text": (torch.tensor([0.0, 7.0]), torch.tensor([0, 1]))},
            # row 1 alone has audio; its emotions are certain and right but for the last, missed by 6
            "emotion": {"audio": (torch.tensor([[50.0, -50, -50, -50, -50, 6]]), torch.tensor([1]))},
        },
        balance=0.5,
    )
    objective = make(sentiment=2.0, emotion=3.0, unimodal=0.1, router_balance=0.01)
    loss = objective(made, batch)
    assert loss.parts["sentiment"].item() == 2
    assert loss.parts["emotion"].item() == pytest.approx(math.log(2))
    assert loss.parts["unimodal"].item() == pytest.approx((2 * 1 + 3 * softplus(6) / 6) / 2)
    assert loss.parts["balance"].item() == 0.5
    assert loss.total.item() == pytest.approx(2 * 2 + 3 * math.log(2) + 0.1 * (2 + softplus(6) / 2) / 2 + 0.01 * 0.5)
    assert not list(objective.parameters())
    assert all(not part.requires_grad for part in loss.parts.values())


def test_one_task_alone():
    batch = labels([1.0], [[1.0] * 6])
    loss = make(("sentiment",))(output(torch.tensor([3.0]), torch.full((1, 6), NAN)), batch)
    assert loss.total.item() == 2
    assert set(loss.parts) == {"sentiment", "balance"}


def test_uncertainty_by_hand():
    objective = make(balance_tasks="uncertainty")
    assert {name: p.item() for name, p in objective.named_parameters()} == dict.fromkeys(
        ("log_variance.sentiment", "log_variance.emotion"), 0.0
    )
    with torch.no_grad():
        objective.log_variance["sentiment"].fill_(0.7)
    batch = labels([1.0], [[1.0] * 6])
    loss = objective(output(torch.tensor([3.0]), torch.zeros(1, 6)), batch)
    assert loss.parts["sentiment"].item() == 2  # the log has the loss itself
    assert loss.total.item() == pytest.approx(2 * math.exp(-0.7) + 0.7 + math.log(2))
    loss.total.backward()
    gradient = objective.log_variance["sentiment"].grad
    assert gradient is not None
    assert gradient.item() == pytest.approx(1 - 2 * math.exp(-0.7), abs=1e-6)


def test_a_batch_without_labels_of_a_task_does_not_move_its_weight():
    objective = make(balance_tasks="uncertainty")
    with torch.no_grad():
        objective.log_variance["emotion"].fill_(0.7)
    loss = objective(output(torch.tensor([3.0]), torch.zeros(1, 6)), labels([1.0], [[NAN] * 6]))
    assert loss.total.item() == 2
    loss.total.backward()
    assert objective.log_variance["emotion"].grad.item() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", [{}, {"balance_tasks": "uncertainty"}])
def test_a_task_without_labels_teaches_its_parts_nothing(settings):
    """Through the whole model: with no emotion label in the batch, heads and fusion of emotion get no gradient."""
    model = tiny_model()
    rows = tiny_rows(7, sets=MIXED, no_emotions=1)
    batch = collate(rows.utterances, rows.arrays)
    objective = make(unimodal=0.5, router_balance=0.0, **settings)
    objective(model(batch.features, batch.masks), batch).total.backward()
    for name, parameter in model.named_parameters():
        gradient = 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
        of_emotion = ("heads.emotion", "unimodal_heads.emotion", "fusion.1")
        assert math.isfinite(gradient)
        if name.startswith(of_emotion):
            assert gradient == 0, name
        elif name.startswith(("heads.sentiment", "unimodal_heads.sentiment")):
            assert gradient > 0, name


# ---- other ways with emotions ----


def test_soft_targets_by_hand():
    truth = torch.tensor([[0.0, 1, 3, 2, NAN, NAN]])
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0, 9.0, 9.0]])
    recipe = ObjectiveRecipe(emotion_targets="soft")
    cells = [softplus(0.5), softplus(-1) + 1 / 3, softplus(2) - 2, math.log(2)]  # softplus(z) - target z
    assert emotion_loss(logits, truth, recipe=recipe).mean().item() == pytest.approx(sum(cells) / 4)


def test_graded_targets_by_hand():
    truth = torch.tensor([[0.0, 1 / 3, 1, 3, NAN, NAN]])
    logits = torch.tensor([[0.5, -1.0, 2.0, 1.0, 9.0, 9.0]])
    cells = [softplus(0.5), softplus(-1) + 1 / 3, softplus(2) - 2, softplus(1) - 1]  # softplus(z) - target z
    loss = emotion_loss(logits, truth, recipe=ObjectiveRecipe(emotion_targets="graded"))
    assert loss.mean().item() == pytest.approx(sum(cells) / 4)


def test_asymmetric_loss_by_hand():
    truth = torch.tensor([[0.0, 0, 1, NAN, NAN, NAN]])
    logits = torch.tensor([[1.0, -4.0, -1.0, 9, 9, 9]], requires_grad=True)
    recipe = ObjectiveRecipe(emotion_focus=2, emotion_margin=0.05)
    p = 1 / (1 + math.exp(-1)) - 0.05
    cells = [p**2 * -math.log(1 - p), 0.0, softplus(1)]  # the second is absent so surely that it counts nothing
    loss = emotion_loss(logits, truth, recipe=recipe).mean()
    assert loss.item() == pytest.approx(sum(cells) / 3)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_present_emotions_count_by_how_rare_they_are():
    objective = make(emotion_balance=0.5)
    rows = tiny_rows(10).utterances
    first = [0.0] * 8 + [1.0, 2.0]
    rows = [dataclasses.replace(u, emotions=(x, 0.0, None, None, None, 1.0)) for u, x in zip(rows, first, strict=True)]
    objective.count(rows)
    assert objective.present_weight.tolist() == [2, 1, 1, 1, 1, 1]  # (8 / 2) ** 0.5; one-sided ones stay
    logits = torch.zeros(1, 6)
    present, absent = (
        objective(output(torch.zeros(1), logits), labels([NAN], [[x, *[NAN] * 5]])).tasks["emotion"].item()
        for x in (1.0, 0.0)
    )
    assert present == pytest.approx(2 * absent)


def test_r_drop_by_hand():
    objective = make(r_drop=0.5, emotion=2.0)
    batch = labels([1.0, NAN], [[1.0, 0, 0, 0, 0, 0], [NAN] * 6])
    first = output(torch.tensor([1.5, 7.0]), torch.tensor([[1.0] * 6, [5.0] * 6]))
    second = output(torch.tensor([0.0, -7.0]), torch.tensor([[-1.0] * 6, [3.0] * 6]))
    found = objective.twice(first, second, batch)
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    one, two = objective(first, batch), objective(second, batch)
    assert found.tasks["sentiment"].item() == pytest.approx((0.5 + 1) / 2 + 0.5 * 1.5**2)
    emotion = (one.tasks["emotion"] + two.tasks["emotion"]).item() / 2 + 2 * 0.5 * kl  # symmetric: both KLs are equal
    assert found.tasks["emotion"].item() == pytest.approx(emotion)
    assert found.total.item() == pytest.approx(sum(x.item() for x in found.tasks.values()))
    assert objective.twice(first, first, batch).total.item() == pytest.approx(one.total.item())


def test_what_is_taught_by_hand():
    objective = make(teaching=0.25, emotion=2.0)
    batch = labels([1.0, NAN, NAN, 0.0], [[1.0, *[NAN] * 5], [0.0, *[NAN] * 5], [NAN] * 6, [NAN] * 6])
    taught = Taught(
        torch.tensor([4.0, NAN, 0.0, NAN]), torch.tensor([[NAN] * 6, [0.3, 0.9, *[NAN] * 4], *[[NAN] * 6] * 2])
    )
    said = output(torch.tensor([2.0, 9.0, 0.5, 0.125]), torch.tensor([[1.0] * 6, [-2.0] * 6, [7.0] * 6, [7.0] * 6]))
    loss = objective(said, batch, taught)
    # both: off by 1 and 2; neither; a teacher alone: off by .5; a label alone: off by .125
    assert loss.tasks["sentiment"].item() == pytest.approx((0.75 * 1 + 0.25 * 2 + 0.5 + 0.125) / 3)
    imitated = [p * softplus(2) + (1 - p) * softplus(-2) for p in (0.3, 0.9)]
    cells = [softplus(-1), 0.75 * softplus(-2) + 0.25 * imitated[0], imitated[1]]
    assert loss.tasks["emotion"].item() == pytest.approx(2 * sum(cells) / 3)
    none = Taught(torch.full((4,), NAN), torch.full((4, 6), NAN))
    assert torch.equal(objective(said, batch, none).total, objective(said, batch).total)


def test_what_is_taught_of_exclusive_emotions_by_hand():
    logits = torch.tensor([[1.0, -1, 2, 0, 0.5, -2]] * 4)
    said = torch.tensor(
        [[0.1, 0, 0.6, 0, 0, 0], [0.9, 0.6, 0, 0, 0, 0], [0.1, 0, 0.6, 0, 0, NAN], [0.1, 0, 0.6, 0, 0, 0]]
    )
    among = math.log(1 + logits[0].exp().sum().item())  # of it, the 1 is none's
    cells = [softplus(z) for z in logits[0].tolist()]
    rows = [
        among - 0.1 * 1 - 0.6 * 2,  # and .3 for none, whose logit is 0
        among - 0.6 * 1 - 0.4 * -1,  # their sum is 1.5: scaled to 1
        sum(cells[:5]) - 0.1 * 1 - 0.6 * 2,  # not all said: each by itself
        sum(cells) - 0.1 * 1 - 0.6 * 2,  # not said to be exclusive
    ]
    exclusive = torch.tensor([True, True, True, False])
    assert imitation_loss(logits, said, exclusive).mean().item() == pytest.approx(sum(rows) / 23)
    # the same through the whole objective, whose set of modalities says what is exclusive
    batch = labels([NAN], [[NAN] * 6])._replace(masks={"audio": torch.ones(1, 1).bool()})
    taught = Taught(torch.tensor([NAN]), said[:1])
    loss = make(("emotion",), exclusive=["audio"], emotion=1)(output(torch.zeros(1), logits[:1]), batch, taught)
    assert loss.total.item() == pytest.approx(rows[0] / 6)


def test_unimodal_heads_are_taught_their_own_rows():
    head = (torch.tensor([4.0]), torch.tensor([1]))
    taught = Taught(torch.tensor([0.0, 1.0]), torch.full((2, 6), NAN))
    said = output(torch.zeros(2), torch.zeros(2, 6), {"sentiment": {"text": head}, "emotion": {}})
    objective = make(("sentiment",), unimodal=1, teaching=0.5)
    # neither has a label, but the second is taught: its head is off by 3
    loss = objective(said, labels([NAN, NAN], [[NAN] * 6] * 2), taught)
    assert loss.parts["unimodal"].item() == 3


@given(st.lists(st.booleans(), min_size=5, max_size=5), st.floats(-1e6, 1e6))
def test_where_no_teacher_speaks_nothing_is_imitated(known, anything):
    torch.manual_seed(0)
    mask = torch.tensor(known)
    probabilities = torch.rand(5, 6)
    probabilities[~mask] = NAN
    logits = torch.randn(5, 6)
    logits[~mask] = anything
    logits.requires_grad_()
    loss = imitation_loss(logits, probabilities).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[~mask] == 0).all()
    if mask.any():
        torch.testing.assert_close(loss, imitation_loss(logits[mask], probabilities[mask]).mean())
        # at its least where both say the same
        torch.testing.assert_close(gradient[mask], (logits.sigmoid() - probabilities)[mask] / (6 * int(mask.sum())))
