import pytest
import torch

from mmolre.train.precision import precision_on, products


class FakeOps:
    def __init__(self, supported):
        if supported is not None:
            self._is_mkldnn_bf16_supported = lambda: supported


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32"), (None, "fp32")])
def test_a_cpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.ops, "mkldnn", FakeOps(supported))
    assert precision_on("cpu", "bf16") == expected
    assert precision_on(torch.device("cpu"), "fp32") == "fp32"


@pytest.mark.parametrize("emulates", [True, False])
def test_of_a_gpu_torch_is_asked_whether_it_emulates(monkeypatch, emulates):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **k: asked.append(k) or not emulates)
    assert precision_on("cuda:0", "bf16") == ("fp32" if emulates else "bf16")
    assert asked == [{"including_emulation": False}]


def test_products_are_made_as_said():
    x = torch.ones(2, 2)
    with products("cpu", "fp32"):
        assert (x @ x).dtype == torch.float32
    with products("cpu", "bf16"):
        assert (x @ x).dtype == torch.bfloat16
