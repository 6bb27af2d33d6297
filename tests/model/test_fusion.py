import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmolre.model.fusion import CrossAttention, QueryPool, Sequence, TaskFusion
from tiny_runs import tiny_config

MODALITIES = ("text", "audio", "video")


def randomized(module):
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def sequences(lengths: dict[str, int], present: dict[str, bool] | None = None) -> dict[str, Sequence]:
    """One utterance; each modality of its own length."""
    torch.manual_seed(4)
    return {
        m: Sequence(
            torch.randn(1, n, 8, dtype=torch.float64),
            torch.ones(1, n, dtype=torch.bool),
            torch.tensor([present is None or present[m]]),
        )
        for m, n in lengths.items()
    }


def slow_cross(layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """One utterance, (T, d) and (S, d): position by position, head by head."""
    keys, values = layer.key_value(context).chunk(2, dim=-1)
    size = keys.shape[-1] // layer.heads
    rows = []
    for row in x:
        query = layer.query(row)
        parts = []
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            weight = torch.softmax(keys[:, part] @ query[part] / math.sqrt(size), 0)
            parts.append(weight @ values[:, part])
        rows.append(row + layer.out(torch.cat(parts)))
    return torch.stack(rows)


def slow_pool(layer: QueryPool, x: Tensor) -> Tensor:
    weights, values = torch.softmax(layer.score(x), 0), layer.value(x)
    size = values.shape[1] // layer.heads
    return torch.cat([weights[:, h] @ values[:, h * size : (h + 1) * size] for h in range(layer.heads)])


@pytest.mark.parametrize("names", [("text",), ("text", "audio"), MODALITIES])
def test_fusion_is_what_it_says(names):
    fusion = randomized(TaskFusion(tiny_config(names)))
    given = sequences({m: n for m, n in zip(MODALITIES, (3, 1, 4), strict=True) if m in names})
    pooled = []
    for name in names:
        x = given[name].values[0]
        others = [given[m].values[0] for m in names if m != name]
        if others:
            x = slow_cross(fusion.cross[name], x, torch.cat(others))  # type: ignore[arg-type]
        pooled.append(slow_pool(fusion.pool[name], x))  # type: ignore[arg-type]
    scores = [fusion.weigh[m](vector) for m, vector in zip(names, pooled, strict=True)]
    weights = torch.softmax(torch.cat(scores), 0)
    fused = fusion(given)
    torch.testing.assert_close(fused.weights[0], weights)
    expected = F.layer_norm(weights @ torch.stack(pooled), (8,), fusion.norm.weight, fusion.norm.bias)
    torch.testing.assert_close(fused.vector[0], expected)


def test_absent_modalities_weigh_nothing_and_the_rest_sums_to_one():
    fusion = randomized(TaskFusion(tiny_config(MODALITIES)))
    for present in ({"text": True, "audio": False, "video": True}, {"text": False, "audio": False, "video": True}):
        weights = fusion(sequences(dict.fromkeys(MODALITIES, 1), present)).weights[0]
        assert weights.sum().item() == pytest.approx(1)
        assert [w > 0 for w in weights.tolist()] == list(present.values())


def test_a_masked_position_is_never_attended_to():
    fusion = randomized(TaskFusion(tiny_config(("text", "audio"))))
    short = sequences({"text": 2, "audio": 3})
    long = {
        m: Sequence(
            torch.cat([s.values, 9 * torch.randn(1, 2, 8, dtype=torch.float64)], 1),
            torch.cat([s.mask, torch.zeros(1, 2, dtype=torch.bool)], 1),
            s.present,
        )
        for m, s in short.items()
    }
    torch.testing.assert_close(fusion(long).vector, fusion(short).vector)
    # one real key beside masked ones: as the shortcut for a context of one
    one = short | {"audio": Sequence(*(x[:, :1] for x in short["audio"][:2]), short["audio"].present)}
    masked = torch.tensor([[True, False, False]])
    longer = short | {"audio": Sequence(short["audio"].values, masked, short["audio"].present)}
    torch.testing.assert_close(fusion(longer).vector, fusion(one).vector)
