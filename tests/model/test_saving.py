import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmolre import MMoLRE, UserError
from tiny_runs import tiny_config, tiny_model


def state_of(model: MMoLRE) -> dict[str, torch.Tensor]:
    return model.state_dict()


def test_a_model_comes_back_bit_by_bit(tmp_path):
    model = tiny_model(("text", "audio", "video"), routing="token", fusion="shared", tasks=("emotion",))
    model.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    again = MMoLRE.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == model.config
    assert not again.training
    assert state_of(again).keys() == state_of(model).keys()
    assert all(torch.equal(x, state_of(again)[name]) for name, x in state_of(model).items())


def test_half_the_bytes_in_float16(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert {x.dtype for x in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    again = MMoLRE.from_pretrained(tmp_path / "half")
    for name, x in state_of(again).items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, state_of(model)[name], rtol=1e-3, atol=1e-4)
    assert {x.dtype for x in state_of(model).values()} == {torch.float32}  # the model itself is left as it is


def test_nothing_is_pickled(tmp_path):
    """Loading reads safetensors and JSON alone; what is written holds no pickle."""
    tiny_model().save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert not path.read_bytes().startswith((b"\x80", b"PK"))
    code = (
        "import pickle, sys, torch\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse\n"
        "from mmolre import MMoLRE\n"
        f"MMoLRE.from_pretrained({str(tmp_path)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == ""


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(tmp_path, name):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError) as error:
        MMoLRE.from_pretrained(tmp_path)
    assert one_line(error) == f"{tmp_path} holds no model: {name} is missing"


NO_ENCODER = b'{"modalities": {"text": {"width": 4, "adapted": {"config": {}, "first": 0, "states": [1]}}}}'
TOO_LARGE = [
    b'{"modalities": {"text": {"width": 4}}, "width": 40000000}',
    b'{"modalities": {"text": {"width": 4}}, "shared_ranks": [%s]}' % b",".join([b"1"] * 100_000),
    b'{"modalities": {"a.b": {"width": 4}}}',
    b'{"modalities": {"keys": {"width": 4}}}',
]
DAMAGED = [*TOO_LARGE, b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"modalities": {"text": {"width": 0}}}', NO_ENCODER]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config(tmp_path, content):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        MMoLRE.from_pretrained(tmp_path)
    assert one_line(error).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_damaged_weights(tmp_path, keep):
    tiny_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(UserError) as error:
        MMoLRE.from_pretrained(tmp_path)
    assert one_line(error).startswith(f"{weights} is not a whole safetensors file")


def test_weights_of_another_model(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = tiny_config(width=16).model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        MMoLRE.from_pretrained(tmp_path)
    assert "model.safetensors does not fit config.json" in one_line(error)
    tiny_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for wrong in ({k: v for k, v in state.items() if "norm" not in k}, state | {"more": torch.zeros(1)}):
        save_file(wrong, tmp_path / "model.safetensors")
        with pytest.raises(UserError) as error:
            MMoLRE.from_pretrained(tmp_path)
        assert "does not fit config.json" in one_line(error)


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such", "a/b/c"])
def test_no_folder_and_no_hub_id(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        MMoLRE.from_pretrained(name)
    assert one_line(error).startswith(f"no model at {name}: give")


def test_a_hub_that_does_not_answer(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError) as error:
        MMoLRE.from_pretrained("owner/name")
    assert "the hub gave no model of that id: no route to the hub" in one_line(error)


def test_a_hub_id(tmp_path, monkeypatch):
    import huggingface_hub

    tiny_model().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    MMoLRE.from_pretrained("owner/name")
    assert asked == ["owner/name"]


def test_a_full_disk_keeps_the_old_weights(tmp_path, monkeypatch):
    tiny_model(seed=1).save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError) as error:
        tiny_model(seed=2).save_pretrained(tmp_path)
    assert "is full: free some space" in one_line(error)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
