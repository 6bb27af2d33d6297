import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mmolre import MMoLRE, Utterance
from mmolre.data.batching import collate
from mmolre.model.mmolre import Output
from tiny_runs import SHAPES, tiny_arrays, tiny_config, tiny_model

MODALITIES = ("text", "audio", "video")
VARIANTS = [
    {},
    {"routing": "token"},
    {"routing": "uniform"},
    {"blocks": 0},
    {"shared_ranks": ()},
    {"specific_rank": 0},
    {"fusion": "shared"},
    {"tasks": ("sentiment",)},
    {"tasks": ("emotion",), "unimodal_heads": False},
    {"renormalize": True, "top_k": 1, "activation": "relu"},
]

sets_of_modalities = st.lists(
    st.sets(st.sampled_from(MODALITIES), min_size=1).map(lambda s: tuple(sorted(s))), min_size=1, max_size=5
)


def predict(model: MMoLRE, arrays) -> Output:
    batch = collate([Utterance(str(i)) for i in range(len(arrays))], arrays)
    with torch.no_grad():
        return model(batch.features, batch.masks)


def close(a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=rtol, atol=atol)


def rows_of(output: Output, rows: list[int]) -> dict[str, Tensor]:
    """Everything that belongs to these utterances: predictions, modality weights, unimodal outputs."""
    found = {task: x[rows] for task, x in output.tasks.items()}
    found |= {f"weights {task}": x[rows] for task, x in output.modality_weights.items()}
    for task, by_modality in output.unimodal.items():
        for modality, (x, belongs_to) in by_modality.items():
            places = [belongs_to.tolist().index(row) for row in rows if row in belongs_to]
            if places:
                found[f"{task} of {modality}"] = x[places]
    return found


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_shapes(changes):
    model = tiny_model(**changes)
    arrays = tiny_arrays(5, sets=(("text", "audio"), ("text",)))
    output = predict(model, arrays)
    shapes = {"sentiment": (5,), "emotion": (5, 6)}
    assert {t: tuple(x.shape) for t, x in output.tasks.items()} == {t: shapes[t] for t in model.config.tasks}
    assert {t: tuple(x.shape) for t, x in output.modality_weights.items()} == dict.fromkeys(model.config.tasks, (5, 2))
    for task, by_modality in output.unimodal.items():
        assert set(by_modality) == ({"text", "audio"} if model.config.unimodal_heads else set())
        for name, (x, rows) in by_modality.items():
            assert rows.tolist() == ([0, 1, 2, 3, 4] if name == "text" else [0, 2, 4])
            assert tuple(x.shape) == (len(rows), *shapes[task][1:])
    routers = model.config.blocks * len(model.config.tasks) * 2 if model.config.shared_ranks else 0
    assert len(output.routing) == routers
    places = {(r.modality, r.block, r.task) for r in output.routing}
    assert len(places) == routers
    for record in output.routing:
        assert len(record.rows) == len(record.gates) == (5 if record.modality == "text" else 3)
        assert record.gates.shape[-1] == len(model.config.shared_ranks)
    assert output.balance.shape == ()


@settings(max_examples=25)
@given(sets_of_modalities, st.sampled_from(VARIANTS), st.integers(0, 9))
def test_each_utterance_alone_equals_it_in_a_batch(sets, changes, seed):
    model = tiny_model(MODALITIES, **changes)
    arrays = tiny_arrays(len(sets), seed, tuple(sets))
    together = predict(model, arrays)
    for i, one in enumerate(arrays):
        close(rows_of(predict(model, [one]), [0]), rows_of(together, [i]))


@settings(max_examples=15)
@given(st.permutations(range(5)), st.sampled_from(VARIANTS))
def test_the_order_of_the_batch_does_not_matter(order, changes):
    model = tiny_model(MODALITIES, **changes)
    arrays = tiny_arrays(5, sets=(MODALITIES, ("text",), ("audio", "video")))
    plain = predict(model, arrays)
    shuffled = predict(model, [arrays[i] for i in order])
    for place, i in enumerate(order):
        close(rows_of(shuffled, [place]), rows_of(plain, [i]))
    torch.testing.assert_close(shuffled.balance, plain.balance)


@pytest.mark.parametrize("filling", [0.0, 1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_what_stands_at_padding_and_how_much_of_it_does_not_matter(changes, filling):
    model = tiny_model(**changes).double()  # how float32 rounds gradients of 10 depends on the machine
    batch = collate([Utterance(c) for c in "abcd"], tiny_arrays(4, sets=(("text", "audio"), ("text",), ("audio",))))
    given = {name: x.double() for name, x in batch.features.items()}
    plain = model(given, batch.masks)
    features, masks = {}, {}
    for name, x in given.items():
        more = torch.cat([x, x.new_zeros(4, 3, *x.shape[2:])], dim=1)
        masks[name] = torch.cat([batch.masks[name], torch.zeros(4, 3, dtype=torch.bool)], dim=1)
        features[name] = more.masked_fill(~masks[name][..., None, None], filling)
    padded = model(features, masks)
    close(rows_of(padded, [0, 1, 2, 3]), rows_of(plain, [0, 1, 2, 3]))
    torch.testing.assert_close(padded.balance, plain.balance)
    gradients = []
    for output in (plain, padded):
        model.zero_grad()
        total = torch.stack([x.square().sum() for x in output.tasks.values()]).sum()
        (total + output.balance).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


def test_absent_in_the_mask_equals_left_out():
    model = tiny_model(MODALITIES)
    arrays = tiny_arrays(3, sets=(("text", "video"),))
    batch = collate([Utterance(c) for c in "abc"], arrays)
    left_out = model(batch.features, batch.masks)
    features = batch.features | {"audio": torch.full((3, 4, *SHAPES["audio"]), float("nan"))}
    masks = batch.masks | {"audio": torch.zeros(3, 4, dtype=torch.bool)}
    close(rows_of(model(features, masks), [0, 1, 2]), rows_of(left_out, [0, 1, 2]))


@pytest.mark.parametrize("names", [("text",), ("audio", "text"), MODALITIES])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_any_number_of_modalities(names, changes):
    model = tiny_model(names, **changes)
    output = predict(model, tiny_arrays(3, sets=(names,)))
    for weights in output.modality_weights.values():
        assert weights.shape == (3, len(names))
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        assert (weights > 0).all()
    assert set(model.placeholders) == (set(names) if len(names) > 1 else set())


def test_absent_modalities_weigh_nothing():
    model = tiny_model(MODALITIES)
    sets = (("text",), ("video", "text"), ("audio",))
    weights = predict(model, tiny_arrays(3, sets=sets)).modality_weights["emotion"]
    for row, present in zip(weights.tolist(), sets, strict=True):
        assert [w > 0 for w in row] == [m in present for m in MODALITIES]
        assert sum(row) == pytest.approx(1)


def test_one_token_utterances():
    model = tiny_model()
    arrays = [{m: x[:1] for m, x in present.items()} for present in tiny_arrays(2)]
    output = predict(model, arrays)
    assert all(torch.isfinite(x).all() for x in output.tasks.values())
    assert not torch.equal(output.tasks["emotion"][0], output.tasks["emotion"][1])


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_modality_matters_to_the_prediction_but_unimodal_heads_see_only_their_own(changes):
    model = tiny_model(MODALITIES, **changes)
    arrays = tiny_arrays(1, sets=(MODALITIES,))
    before = predict(model, arrays)
    for touched in MODALITIES:
        other = [{m: x + (m == touched) for m, x in arrays[0].items()}]
        # Not a plain shift, which the norm at the input would take away.
        other[0][touched] = other[0][touched] * tiny_arrays(9, 5, ((touched,),))[8][touched][:1]
        after = predict(model, other)
        for task, x in after.tasks.items():
            assert (x - before.tasks[task]).abs().max() > 1e-6
        for by_modality, old in zip(after.unimodal.values(), before.unimodal.values(), strict=True):
            for name, (x, _) in by_modality.items():
                assert torch.equal(x, old[name][0]) == (name != touched)


def test_placeholders_are_read_where_a_modality_is_absent_and_only_there():
    model = tiny_model()
    arrays = tiny_arrays(2, sets=(("text",), ("text", "audio")))
    before = predict(model, arrays).tasks
    with torch.no_grad():
        model.placeholders["audio"][0] += torch.randn(8)  # of the first task, sentiment
    after = predict(model, arrays).tasks
    assert after["sentiment"][0] != before["sentiment"][0]
    assert after["sentiment"][1] == before["sentiment"][1]
    assert torch.equal(after["emotion"], before["emotion"])


def test_tasks_fuse_in_their_own_way_unless_the_fusion_is_shared():
    arrays = tiny_arrays(3)
    assert len(tiny_model(fusion="shared").fusion) == 1
    model = tiny_model()
    before = predict(model, arrays).tasks
    with torch.no_grad():
        for parameter in model.fusion[1].parameters():
            parameter += torch.randn_like(parameter)
    after = predict(model, arrays).tasks
    assert torch.equal(after["sentiment"], before["sentiment"])
    assert not torch.equal(after["emotion"], before["emotion"])


def test_layers_are_mixed_with_softmax_weights():
    model = tiny_model(("audio",))
    (one,) = tiny_arrays(1, sets=(("audio",),))
    with torch.no_grad():
        model.inputs["audio"].layer_mix.copy_(torch.tensor([50.0, 0.0]))  # type: ignore[union-attr, operator]
    first = predict(model, [one]).tasks["sentiment"]
    changed = one["audio"].copy()
    changed[:, 1] = 7 * changed[:, 0] ** 2
    assert torch.equal(predict(model, [{"audio": changed}]).tasks["sentiment"], first)
    with torch.no_grad():
        model.inputs["audio"].layer_mix.zero_()  # type: ignore[union-attr, operator]
    swapped = one["audio"][:, ::-1]
    close(predict(model, [{"audio": swapped}]).tasks, predict(model, [one]).tasks)  # equal weights: no order


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_parameter_learns(changes):
    """From a batch with every set of modalities, dropout on: no part hangs in the air."""
    torch.manual_seed(0)
    model = MMoLRE(tiny_config(**{"dropout": 0.1, "top_k": 3, **changes})).train()
    batch = collate(
        [Utterance(str(i)) for i in range(12)], tiny_arrays(12, sets=(("text", "audio"), ("text",), ("audio",)))
    )
    output = model(batch.features, batch.masks)
    unimodal = [x for by_modality in output.unimodal.values() for x, _ in by_modality.values()]
    total = torch.stack([x.square().sum() for x in [*output.tasks.values(), *unimodal]]).sum()
    (total + output.balance).backward()
    # A softmax does not see what is added to all its scores, nor one over a single layer anything at all.
    unseen = ("pool.text.score.bias", "pool.audio.score.bias", "text.layer_mix")
    idle = [
        name
        for name, p in model.named_parameters()
        if (p.grad is None or p.grad.abs().max() == 0) and not name.endswith(unseen)
    ]
    assert idle == []


def test_errors():
    model = tiny_model()
    batch = collate([Utterance("a"), Utterance("b")], tiny_arrays(2))
    with pytest.raises(ValueError, match=r"unknown modalities \['smell'\]; the model knows \['text', 'audio'\]"):
        model({"smell": batch.features["text"]}, {"smell": batch.masks["text"]})
    with pytest.raises(ValueError, match="no modality given"):
        model({}, {})
    nobody = {m: mask & torch.tensor([[True], [False]]) for m, mask in batch.masks.items()}
    with pytest.raises(ValueError, match="every utterance needs at least one modality"):
        model(batch.features, nobody)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tasks": ()}, "tasks must name"),
        ({"tasks": ("emotion", "emotion")}, "tasks must name"),
        ({"shared_ranks": (2, 0)}, "at least 1"),
        ({"top_k": 4}, "only 3 shared experts"),
        ({"shared_ranks": (), "specific_rank": 0}, "a block needs"),
        ({"attention_width": 5}, "attention_heads must divide"),
        ({"attention_heads": 3, "attention_width": 6}, "attention_heads must divide"),
        ({"widht": 3}, "Extra inputs"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_shapes_that_make_no_model(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        tiny_config(**changes)


def test_parameters_by_part_add_up():
    model = tiny_model()
    assert sum(model.parameters_by_part().values()) == sum(p.numel() for p in model.parameters())
