import json
from dataclasses import replace

import numpy as np
import pytest

from mmolre.errors import UserError
from mmolre.evaluate.anchor import Anchor
from mmolre.evaluate.calibration import Calibration, combine, fit_calibration
from mmolre.evaluate.decision import Decision, rows_by_set
from mmolre.evaluate.thresholds import EmotionThresholds, fit_thresholds, top
from mmolre.inference import RawPredictions
from mmolre.schema import EMOTIONS

NAN = float("nan")
TEXT, AUDIO, BOTH = ("text",), ("audio",), ("text", "audio")


def sample(sets, n=240, seed=0) -> tuple[RawPredictions, np.ndarray]:
    """Raw predictions of n utterances, in turn with these modalities, and labels that follow them.

    The fused model and each modality err in their own way, so that none can stand in for another.
    """
    draw = np.random.default_rng(seed)
    modalities = [sets[i % len(sets)] for i in range(n)]
    truth = (draw.random((n, 6)) < 0.3).astype(float)
    signal = 3 * truth - 1.5
    logits = 0.5 * (signal + draw.normal(0, 1, (n, 6))) + 1
    alone = {"text": 2 * (signal + draw.normal(0, 2, (n, 6))) - 3, "audio": signal + draw.normal(0, 3, (n, 6)) + 2}
    for i, row in enumerate(modalities):
        for m in alone:
            if m not in row:
                alone[m][i] = NAN
            elif len(row) == 1:
                logits[i] = alone[m][i]
    return RawPredictions(modalities, np.zeros(n), logits, alone, {m: np.zeros(n) for m in alone}), truth


def rows(raw: RawPredictions, modalities) -> np.ndarray:
    return np.array([row == modalities for row in raw.modalities])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_rows_by_set():
    found = rows_by_set([TEXT, BOTH, AUDIO, ("audio", "text"), TEXT])
    assert {key: value.tolist() for key, value in found.items()} == {"audio": [2], "text": [0, 4], "text+audio": [1, 3]}
    assert rows_by_set([]) == {}


@pytest.mark.parametrize(
    ("sets", "labelled", "fusion", "late"),
    [
        ((TEXT, AUDIO), BOTH, "auto", True),
        ((TEXT, BOTH), BOTH, "auto", False),
        ((TEXT, BOTH), TEXT, "auto", True),  # no label where both are there
        ((TEXT, BOTH), BOTH, "late", True),
        ((TEXT, AUDIO), BOTH, "fused", False),
    ],
)
def test_late_or_fused(sets, labelled, fusion, late):
    raw, truth = sample(sets)
    if labelled == TEXT:
        truth[rows(raw, BOTH)] = NAN
    assert Decision.fit(raw, truth, fusion).late == late


def test_late_is_the_mean_of_the_modalities_own_calibrated_logits():
    raw, truth = sample((BOTH, TEXT, AUDIO))
    decision = Decision.fit(raw, truth, "late")
    text, audio = (~np.isnan(raw.alone[m][:, 0]) for m in ("text", "audio"))
    calibration = {
        "text": fit_calibration(raw.alone["text"][text], truth[text]),
        "audio": fit_calibration(raw.alone["audio"][audio], truth[audio]),
    }
    assert decision.calibration == calibration
    both = rows(raw, BOTH)
    own = {m: calibration[m].logits(raw.alone[m][both]) for m in ("text", "audio")}
    probabilities = decision.probabilities(raw)
    np.testing.assert_allclose(probabilities[both], sigmoid(combine(own)))
    np.testing.assert_allclose(probabilities[rows(raw, TEXT)], calibration["text"].apply(raw.logits[rows(raw, TEXT)]))
    # the fused logits of both have no say
    raw.logits[both] += 7
    np.testing.assert_array_equal(decision.probabilities(raw), probabilities)


def test_fused_reads_the_fused_logits_calibrated_on_their_own_kind():
    raw, truth = sample((BOTH, TEXT))
    decision = Decision.fit(raw, truth, "fused")
    both = rows(raw, BOTH)
    expected = fit_calibration(raw.logits[both], truth[both])
    assert decision.calibration["text+audio"] == expected
    probabilities = decision.probabilities(raw)
    np.testing.assert_allclose(probabilities[both], expected.apply(raw.logits[both]))
    raw.alone["text"][both] += 7
    np.testing.assert_array_equal(decision.probabilities(raw), probabilities)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("key", ["audio", "text+audio"])
def test_top_of_exclusive_sets_is_the_likeliest_of_the_six_and_none(key, together):
    sets = {"audio": AUDIO, "text+audio": BOTH}
    raw, truth = sample((BOTH, AUDIO, TEXT))
    raw.logits[~rows(raw, TEXT)] -= 4 if key == "audio" else 1.5  # so that none is the likeliest of some
    raw.alone["audio"] -= 4
    recordings = [str(i // 5) if raw.modalities[i] == TEXT else None for i in range(240)] if together else None
    decision = Decision.fit(raw, truth, "fused", recordings=recordings, exclusive=(key,))
    _, probabilities = decision.read(raw, recordings)
    own = rows(raw, sets[key])
    seven = np.column_stack([raw.logits[own], np.zeros(own.sum())])  # logits of a softmax, none last
    expected = [(*EMOTIONS, None)[i] for i in seven.argmax(axis=1)]
    limits = decision.limits(together=together)
    assert top(probabilities[own], limits[key]) == expected
    assert {None, *EMOTIONS} == set(expected)
    plain = Decision.fit(raw, truth, "fused", recordings=recordings)
    assert top(plain.read(raw, recordings)[1][own], plain.limits(together=together)[key]) != expected
    if not together:  # the context is one for all
        others = {"text", "audio", "text+audio"} - {key}
        assert all(limits[other] == plain.limits(together=False)[other] for other in others)


@pytest.mark.parametrize("together", [False, True])
def test_an_exclusive_set_that_valid_has_no_label_of_is_a_softmax_all_the_same(together):
    raw, truth = sample((BOTH, AUDIO, TEXT))
    own = rows(raw, AUDIO)
    raw.logits[own] -= 4
    raw.alone["audio"] -= 4
    truth[~rows(raw, TEXT)] = NAN
    recordings = [str(i // 5) for i in range(240)] if together else None
    decision = Decision.fit(raw, truth, "fused", recordings=recordings, exclusive=("audio", "text+audio"))
    _, probabilities = decision.read(raw, recordings)
    seven = np.exp(np.column_stack([raw.logits[own], np.zeros(own.sum())]))
    seven /= seven.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities[own], seven[:, :6], atol=1e-4)  # the least that is said in context
    expected = [(*EMOTIONS, None)[i] for i in seven.argmax(axis=1)]
    assert {None, *EMOTIONS} == set(expected)
    assert top(probabilities[own], decision.limits(together=together)["audio"]) == expected
    assert decision.exclusive == {"audio", "text+audio"}
    assert Decision.fit(raw, truth, "late", exclusive=("audio", "text+audio")).exclusive == {"audio"}


def test_exclusive_says_nothing_of_a_model_without_emotions():
    raw, truth = sample((AUDIO, TEXT))
    raw = replace(raw, logits=np.full_like(raw.logits, NAN), alone={})
    decision = Decision.fit(raw, truth * NAN, "fused", exclusive=("audio",))
    assert decision.exclusive == frozenset()


def test_exclusive_sets_that_are_read_late_have_their_limit_from_valid():
    raw, truth = sample((BOTH, AUDIO, TEXT))
    late, plain = (Decision.fit(raw, truth, "late", exclusive=e) for e in (("text+audio",), ()))
    assert late == plain


@pytest.mark.parametrize("fusion", ["late", "fused"])
def test_thresholds_of_each_set_are_fitted_on_its_own_probabilities(fusion):
    raw, truth = sample((BOTH, TEXT, AUDIO))
    decision = Decision.fit(raw, truth, fusion)
    assert set(decision.thresholds) == {"text", "audio", "text+audio"}
    both = rows(raw, BOTH)
    expected = fit_thresholds(decision.probabilities(raw)[both], truth[both], calibrated=fusion == "fused")
    assert decision.thresholds["text+audio"] == expected
    heard = ~np.isnan(raw.alone["audio"][:, 0])
    alone = decision.calibration["audio"].apply(raw.alone["audio"][heard])
    assert decision.thresholds["audio"] == fit_thresholds(alone, truth[heard], calibrated=True)
    assert len({t.macro_f1 for t in decision.thresholds.values()}) == 3
    found = decision.for_rows(raw.modalities[:3])
    assert found == [decision.thresholds[key] for key in ("text+audio", "text", "audio")]


def test_each_modality_is_read_alone_though_valid_never_has_it_alone():
    raw, truth = sample((BOTH,))
    decision = Decision.fit(raw, truth)
    assert not decision.late
    assert set(decision.calibration) == set(decision.thresholds) == {"text", "audio", "text+audio"}
    assert decision.for_rows([TEXT])[0] != EmotionThresholds.default()


def test_a_set_that_valid_never_has_takes_the_mean_of_its_modalities():
    raw, truth = sample((TEXT, AUDIO))
    decision = Decision.fit(raw, truth)
    (found,) = decision.for_rows([BOTH])
    assert found == EmotionThresholds.mean([decision.thresholds["text"], decision.thresholds["audio"]])


@pytest.mark.parametrize("fusion", ["auto", "late", "fused"])
def test_unlabelled_cells_do_not_matter(fusion):
    raw, truth = sample((BOTH, TEXT, AUDIO))
    draw = np.random.default_rng(1)
    truth[draw.random(truth.shape) < 0.2] = NAN
    truth[:30] = NAN
    decision = Decision.fit(raw, truth, fusion)
    hidden = np.isnan(truth)
    for values in (raw.logits, *raw.alone.values()):
        known = hidden & ~np.isnan(values)
        values[known] = draw.normal(0, 50, known.sum())
    assert Decision.fit(raw, truth, fusion) == decision


def test_nothing_labelled():
    raw, truth = sample((BOTH, TEXT))
    decision = Decision.fit(raw, np.full_like(truth, NAN))
    assert decision == Decision(True, {}, {})
    text = rows(raw, TEXT)
    np.testing.assert_allclose(decision.probabilities(raw)[text], sigmoid(raw.logits[text]))
    assert decision.for_rows([TEXT]) == [EmotionThresholds.default()]


def test_a_model_without_the_emotion_task():
    n = 4
    nothing = np.full((n, 6), NAN)
    raw = RawPredictions([TEXT, AUDIO, BOTH, TEXT], np.zeros(n), nothing, {"text": nothing, "audio": nothing}, {})
    decision = Decision.fit(raw, nothing)
    assert np.isnan(decision.probabilities(raw)).all()


@pytest.mark.parametrize("fusion", ["late", "fused"])
def test_json_round_trip(fusion):
    raw, truth = sample((BOTH, TEXT, AUDIO))
    decision = Decision.fit(raw, truth, fusion)
    content = json.loads(json.dumps(decision.to_json()))
    assert content["emotion_fusion"] == fusion
    assert Decision.from_json(content) == decision


def test_unreadable_json():
    content = Decision(True, {"text": Calibration()}, {"text": EmotionThresholds.default()}).to_json()
    for key in ("calibration", "thresholds"):
        broken = json.loads(json.dumps(content))
        broken[key]["text"].popitem()
        with pytest.raises(UserError):
            Decision.from_json(broken)


def test_sentiment_is_anchored_where_several_modalities_are_there():
    text, audio = np.array([1.0, 1.0, NAN]), np.array([2.0, NAN, 2.0])
    nothing = np.full((3, 6), NAN)
    raw = RawPredictions([BOTH, TEXT, AUDIO], np.array([2.0, 1.0, 2.0]), nothing, {}, {"text": text, "audio": audio})
    decision = Decision(False, {}, {}, {"text+audio": Anchor("text", 0.25)})
    assert decision.needs_each_alone
    np.testing.assert_allclose(decision.sentiment(raw), [1.25, 1.0, 2.0])
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    np.testing.assert_array_equal(Decision(False, {}, {}).sentiment(raw), raw.sentiment)


def test_anchors_are_fitted_only_if_asked():
    raw, truth = sample((TEXT, BOTH))
    assert Decision.fit(raw, truth).anchors == {}
    assert set(Decision.fit(raw, truth, sentiment=np.arange(240.0), anchored=True).anchors) == {"text+audio"}
