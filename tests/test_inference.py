import numpy as np
import pytest

from mmolre.inference import infer
from tiny_runs import MIXED, tiny_arrays, tiny_model


def test_in_the_inputs_order_whatever_the_batches():
    model, arrays = tiny_model(), tiny_arrays(11, sets=MIXED)
    whole = infer(model, arrays)
    assert whole.modalities == [MIXED[i % 3] for i in range(11)]
    assert whole.sentiment.dtype == whole.logits.dtype == np.float64
    for size in (1, 3):
        parts = infer(model, arrays, batch_size=size)
        np.testing.assert_allclose(parts.sentiment, whole.sentiment, atol=1e-5)
        np.testing.assert_allclose(parts.logits, whole.logits, atol=1e-5)
        for m in whole.alone:
            np.testing.assert_allclose(parts.alone[m], whole.alone[m], atol=1e-5)
    for i in range(11):
        one = infer(model, [arrays[i]])
        np.testing.assert_allclose(one.sentiment[0], whole.sentiment[i], atol=1e-5)
        np.testing.assert_allclose(one.logits[0], whole.logits[i], atol=1e-5)
    assert len(set(whole.sentiment.round(4))) == 11


def test_each_alone_is_what_the_model_says_without_the_others():
    model, arrays = tiny_model(), tiny_arrays(7, sets=MIXED)
    raw = infer(model, arrays)
    assert set(raw.alone) == {"text", "audio"}
    for name, logits in raw.alone.items():
        for i, present in enumerate(arrays):
            if name in present:
                expected = infer(model, [{name: present[name]}]).logits[0]
                np.testing.assert_allclose(logits[i], expected, atol=1e-5)
                sentiment = infer(model, [{name: present[name]}]).sentiment[0]
                np.testing.assert_allclose(raw.alone_sentiment[name][i], sentiment, atol=1e-5)
            else:
                assert np.isnan(logits[i]).all()
                assert np.isnan(raw.alone_sentiment[name][i])
    both = [i for i, present in enumerate(arrays) if len(present) == 2]
    assert (np.abs(raw.alone["text"][both] - raw.logits[both]) > 1e-4).any()


def test_not_each_alone():
    model, arrays = tiny_model(), tiny_arrays(3, sets=MIXED)
    raw = infer(model, arrays, each_alone=False)
    assert np.isnan(raw.alone["text"][0]).all()
    np.testing.assert_array_equal(raw.alone["text"][1], raw.logits[1])
    np.testing.assert_array_equal(raw.logits, infer(model, arrays).logits)


@pytest.mark.parametrize(("task", "other"), [("sentiment", "logits"), ("emotion", "sentiment")])
def test_a_task_that_the_model_has_not_is_nan(task, other):
    raw = infer(tiny_model(tasks=(task,)), tiny_arrays(4, sets=MIXED))
    assert np.isnan(getattr(raw, other)).all()
    assert not np.isnan(raw.logits if task == "emotion" else raw.sentiment).any()


def test_nothing_to_predict():
    raw = infer(tiny_model(), [])
    assert raw.modalities == []
    assert raw.sentiment.shape == (0,)
    assert raw.logits.shape == (0, 6)
