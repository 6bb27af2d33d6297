import numpy as np
import pytest
import torch

from mmolre.model.config import ModalityConfig
from mmolre.model.inputs import CLIP, InputProjection, Standardize


def fitted(*arrays: np.ndarray) -> Standardize:
    layer = Standardize(1, arrays[0].shape[-1])
    layer.fit(arrays)
    return layer


def test_each_column_gets_mean_0_and_deviation_1():
    draw = np.random.default_rng(0)
    columns = np.array([1e-3, 1.0, 1e4]) * draw.normal(size=(500, 3)) + np.array([5.0, 0, 1e6])
    parts = np.split(columns.reshape(500, 1, 3), [7, 200])
    layer = fitted(*(part.astype(np.float32) for part in parts))
    done = layer(torch.from_numpy(columns.astype(np.float32)))
    torch.testing.assert_close(done.mean(0), torch.zeros(3), atol=2e-2, rtol=0)
    torch.testing.assert_close(done.std(0), torch.ones(3), atol=2e-2, rtol=0)
    torch.testing.assert_close(layer.mean[0], torch.from_numpy(columns.mean(0)).float(), rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_counts_nothing_and_becomes_the_mean():
    rows = np.array([[1.0, np.nan], [3.0, np.inf], [np.nan, 5.0], [-np.inf, 7.0]], np.float32)
    layer = fitted(rows)
    assert layer.mean.tolist() == [[2, 6]]
    assert layer.deviation.tolist() == [[1, 1]]
    assert layer(torch.from_numpy(rows)).tolist() == [[-1, 0], [1, 0], [0, -1], [0, 1]]


def test_outliers_are_clipped_and_constant_columns_stay_constant():
    layer = fitted(np.array([[0.0, 7], [2, 7], [0, 7], [2, 7]], np.float32))
    assert layer(torch.tensor([[1e30, 7.0], [-1e30, 7.0]])).tolist() == [[CLIP, 0], [-CLIP, 0]]


def test_nothing_to_fit_on():
    layer = Standardize(1, 2)
    layer.fit([])
    assert layer(torch.tensor([[1.0, -2.0]])).tolist() == [[1, -2]]


@pytest.mark.parametrize(("layers", "mix"), [(1, "weights"), (3, "weights"), (3, "concat")])
def test_values_that_are_not_finite_spoil_no_gradient(layers, mix):
    torch.manual_seed(0)
    module = InputProjection(ModalityConfig(width=4, layers=layers, standardize=True, mix=mix), 8, 0.0)
    x = torch.randn(2, 3, layers, 4)
    clean = module(x)
    x[0, 0, 0, 1], x[1, 2, 0, 3] = float("nan"), float("inf")
    y = module(x)
    assert torch.equal(y[0, 1:], clean[0, 1:])
    y.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name


def test_layers_are_mixed_by_softmax_weights():
    module = InputProjection(ModalityConfig(width=4, layers=2), 8, 0.0)
    with torch.no_grad():
        module.layer_mix.copy_(torch.tensor([1.0, 3.0]).log())
    x = torch.randn(1, 2, 2, 4)
    expected = module.project(module.norm(0.25 * x[:, :, 0] + 0.75 * x[:, :, 1]))
    torch.testing.assert_close(module(x), expected)


def test_each_layer_has_figures_of_its_own():
    rng = np.random.default_rng(0)
    arrays = [rng.normal([[0.0, 5.0], [1e4, -3.0]], [[1.0, 2.0], [1e3, 0.1]], (n, 2, 2)) for n in (40, 1, 60)]
    layer = Standardize(2, 2)
    layer.fit(arrays)
    rows = np.concatenate(arrays)
    torch.testing.assert_close(layer.mean, torch.from_numpy(rows.mean(0)).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.deviation, torch.from_numpy(rows.std(0)).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("standardize", [True, False])
def test_concat_is_a_projection_per_layer(standardize):
    torch.manual_seed(0)
    module = InputProjection(ModalityConfig(width=4, layers=3, standardize=standardize, mix="concat"), 8, 0.0)
    x = torch.randn(2, 5, 3, 4)
    normal = module.norm(x)
    slow = module.project.bias + sum(normal[:, :, i] @ module.project.weight[:, 4 * i : 4 * i + 4].T for i in range(3))
    torch.testing.assert_close(module(x), slow)


def test_input_dropout_is_of_the_projected_values_and_only_in_training():
    module = InputProjection(ModalityConfig(width=4, dropout=0.999), 8, 0.0)
    x = torch.randn(2, 5, 1, 4)
    torch.testing.assert_close(module.train()(x), module.project.bias.expand(2, 5, 8))
    assert not torch.allclose(module.eval()(x), module.project.bias.expand(2, 5, 8))
