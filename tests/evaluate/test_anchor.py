import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmolre.evaluate.anchor import PRIOR_ROWS, PRIOR_WEIGHT, fit_anchors

NAN = float("nan")
TEXT, AUDIO, BOTH = ("text",), ("audio",), ("text", "audio")


def case(n: int, weight: float, noise: float = 0.0, seed: int = 0):
    """Utterances with both, whose truth lies at ``weight`` between text's and the fused score."""
    draw = np.random.default_rng(seed)
    text, step = draw.normal(0, 1, n), draw.normal(0, 0.5, n)
    truth = text + weight * step + noise * draw.normal(0, 1, n)
    return text + step, {"text": text, "audio": draw.normal(0, 1, n)}, truth, [BOTH] * n


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_many_utterances_decide(weight):
    anchor = fit_anchors(*case(20_000, weight, noise=0.5))["text+audio"]
    assert anchor.modality == "text"
    assert anchor.weight == pytest.approx(weight, abs=0.03)


def test_few_hardly_move_it():
    # Exactly at 1, and 100 rows count for the prior: (100 * 1 + 100 * .5) / 200.
    anchor = fit_anchors(*case(PRIOR_ROWS, 1.0))["text+audio"]
    assert anchor.weight == pytest.approx((1 + PRIOR_WEIGHT) / 2)


def test_no_labelled_utterance_with_both_leaves_the_prior():
    fused, alone, truth, _ = case(30, 1.0)
    alone["audio"][:] = NAN
    anchors = fit_anchors(fused, alone, truth, [TEXT] * 30)
    assert anchors == {"text+audio": ("text", PRIOR_WEIGHT)}
    fused, alone, truth, sets = case(30, 1.0)
    assert fit_anchors(fused, alone, np.full(30, NAN), sets)["text+audio"].weight == PRIOR_WEIGHT


def test_the_anchor_is_the_modality_that_correlates_best():
    fused, alone, truth, sets = case(50, 0.5)
    swapped = {"text": alone["audio"], "audio": alone["text"]}
    assert fit_anchors(fused, swapped, truth, sets)["text+audio"].modality == "audio"


def test_what_a_modality_says_in_another_corpus_does_not_choose_it():
    fused, alone, truth, sets = case(30, 0.5, noise=1.0)
    draw = np.random.default_rng(1)
    easy = draw.normal(0, 1, 200)  # voices of another corpus, of which the voice alone says everything
    more = np.full(200, NAN)

    def anchor_of(n: int) -> str:
        own = {"text": np.r_[alone["text"][:n], more], "audio": np.r_[alone["audio"][:n], easy]}
        every = [*sets[:n], *[AUDIO] * 200]
        return fit_anchors(np.r_[fused[:n], easy], own, np.r_[truth[:n], easy], every)["text+audio"].modality

    assert anchor_of(30) == "text"
    assert anchor_of(5) == "audio"  # too few with both to go by


def test_a_fused_score_that_says_nothing_else_leaves_the_prior():
    _, alone, truth, sets = case(20, 0.5)
    assert fit_anchors(alone["text"], alone, truth, sets)["text+audio"] == ("text", PRIOR_WEIGHT)


def test_every_set_of_three_modalities_has_one():
    fused, alone, truth, _ = case(12, 0.5)
    anchors = fit_anchors(fused, alone | {"video": -truth}, truth, [("text", "audio", "video")] * 12)
    assert set(anchors) == {"text+audio", "text+video", "audio+video", "text+audio+video"}
    assert anchors["audio+video"].modality == "audio"


@given(st.integers(0, 40), st.floats(-5, 5), st.integers(0, 99))
def test_the_weight_stays_in_its_range_and_no_masked_label_leaks(n, weight, seed):
    fused, alone, truth, sets = case(n, weight, noise=1.0, seed=seed)
    anchors = fit_anchors(fused, alone, truth, sets)
    assert 0 <= anchors["text+audio"].weight <= 1
    more = fit_anchors(
        np.append(fused, 9.0),
        {m: np.append(own, -9.0) for m, own in alone.items()},
        np.append(truth, NAN),
        [*sets, BOTH],
    )
    assert more == anchors
