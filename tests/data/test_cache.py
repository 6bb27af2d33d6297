"""The feature cache: what goes in comes out, and what a crash leaves behind does no harm."""

import errno
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmolre.data import cache as cache_module
from mmolre.data.cache import FeatureCache, Features, audio_key, text_key
from mmolre.errors import UserError

FP = "f" * 64


def features(length: int, seed: int = 0, truncated: bool = False) -> Features:
    values = np.random.default_rng(seed).normal(size=(length, 2, 3)).astype(np.float16)
    return Features(values, truncated)


def same(a: Features | None, b: Features) -> bool:
    return a is not None and a.truncated == b.truncated and np.array_equal(a.values, b.values)


def shards(root: Path) -> list[Path]:
    return sorted((root / FP).glob("*.safetensors"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.dictionaries(st.text("abcdef0123456789:.", min_size=1), st.tuples(st.integers(0, 9), st.booleans())))
def test_what_goes_in_comes_out(tmp_path_factory, contents):
    root = tmp_path_factory.mktemp("cache")
    items = {key: features(length, i, flag) for i, (key, (length, flag)) in enumerate(contents.items())}
    FeatureCache(root).put_many(FP, list(items.items()))
    again = FeatureCache(root)
    assert again.missing(FP, [*items, "absent", "absent"]) == ["absent"]
    for key, expected in items.items():
        assert same(again.get(FP, key), expected)
    assert again.get(FP, "absent") is None
    assert again.get("0" * 64, "absent") is None


def test_values_are_a_read_only_view_of_the_file_without_padding(tmp_path):
    FeatureCache(tmp_path).put_many(FP, [("a", features(1)), ("b", features(1000))])
    values = FeatureCache(tmp_path).get(FP, "b").values  # type: ignore[union-attr]
    assert values.shape == (1000, 2, 3)
    assert not values.flags.writeable
    assert not values.flags.owndata
    (shard,) = shards(tmp_path)
    assert shard.stat().st_size < 1001 * 2 * 3 * 2 + 1024


def test_fingerprints_are_kept_apart(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put_many(FP, [("a", features(3, 1))])
    cache.put_many("0" * 64, [("a", features(4, 2))])
    assert same(cache.get(FP, "a"), features(3, 1))
    assert same(cache.get("0" * 64, "a"), features(4, 2))


@pytest.mark.parametrize("kept", [0, 3, 8, 40, 200, -2, -1])
def test_a_shard_that_was_cut_off_is_ignored_and_made_again(tmp_path, kept):
    cache = FeatureCache(tmp_path)
    cache.put_many(FP, [("whole", features(4, 1))])
    cache.put_many(FP, [("cut", features(5, 2)), ("cut too", features(6, 3))])
    shard = next(path for path in shards(tmp_path) if b"cut too" in path.read_bytes())
    shard.write_bytes(shard.read_bytes()[:kept])
    again = FeatureCache(tmp_path)
    with pytest.warns(UserWarning, match="damaged"):
        assert again.missing(FP, ["whole", "cut", "cut too"]) == ["cut", "cut too"]
    again.put_many(FP, [("cut", features(5, 2))])
    assert same(again.get(FP, "whole"), features(4, 1))
    assert same(again.get(FP, "cut"), features(5, 2))


def _with_header(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        bytes(4096),
        _with_header(b"[]"),
        _with_header(b'{"a": 1}'),
        _with_header(b'{"__metadata__": {"truncated": "[]"}, "a": {"dtype": "F32", "shape": [1, 1, 1], '
                     b'"data_offsets": [0, 2]}}', b"xx"),
        _with_header(b'{"__metadata__": {"truncated": "[]"}, "a": {"dtype": "F16", "shape": [-1, -1, 1], '
                     b'"data_offsets": [0, 2]}}', b"xx"),
        _with_header(b'{"__metadata__": {"truncated": "[]"}, "a": {"dtype": "F16", "shape": [1, 1, 1], '
                     b'"data_offsets": [-4, -2]}}', b""),
        _with_header(b'{"__metadata__": {"truncated": "[]"}, "a": {"dtype": "F16", "shape": [1, 1, 9], '
                     b'"data_offsets": [0, 2]}}', b"xx"),
    ],
)  # fmt: skip
def test_a_damaged_shard_warns_and_never_raises(tmp_path, content):
    (tmp_path / FP).mkdir()
    (tmp_path / FP / "x.safetensors").write_bytes(content)
    with pytest.warns(UserWarning, match=r"x\.safetensors is damaged"):
        assert FeatureCache(tmp_path).missing(FP, ["a"]) == ["a"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_damage_anywhere_in_the_header_never_raises(tmp_path_factory, noise, where):
    root = tmp_path_factory.mktemp("cache")
    FeatureCache(root).put_many(FP, [("a", features(2))])
    (shard,) = shards(root)
    content = bytearray(shard.read_bytes())
    content[where : where + len(noise)] = noise
    shard.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = FeatureCache(root)
        cache.missing(FP, ["a"])
        cache.get(FP, "a")


def test_a_full_disk_says_so_and_keeps_what_was_finished(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    cache.put_many(FP, [("a", features(3))])

    def fill(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(UserError, match=f"{tmp_path}: the disk is full.*is kept") as caught:
        cache.put_many(FP, [("b", features(4))])
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / FP).iterdir()] == [".safetensors"]
    assert FeatureCache(tmp_path).missing(FP, ["a", "b"]) == ["b"]


def test_a_root_that_cannot_be_a_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot keep features in .*file"):
        FeatureCache(tmp_path / "file").put_many(FP, [("a", features(1))])


def test_two_writers_at_once_do_not_hurt_each_other(tmp_path):
    one, two = FeatureCache(tmp_path), FeatureCache(tmp_path)
    one.put_many(FP, [("a", features(1, 1)), ("both", features(2, 9))])
    two.put_many(FP, [("b", features(1, 2)), ("both", features(2, 9))])
    for cache in (one, two):
        assert cache.missing(FP, ["a", "b", "both"]) == []
        assert same(cache.get(FP, "both"), features(2, 9))
    assert len(shards(tmp_path)) == 2


def test_what_a_killed_writer_left_goes_after_a_day_and_not_before(tmp_path):
    (tmp_path / FP).mkdir()
    old, young = tmp_path / FP / "old.tmp", tmp_path / FP / "young.tmp"
    for path in (old, young):
        path.write_bytes(b"half a shard")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert FeatureCache(tmp_path).missing(FP, ["a"]) == ["a"]
    assert (old.exists(), young.exists()) == (False, True)


def test_few_shards_are_held_open_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_OPEN_SHARDS", 2)
    cache = FeatureCache(tmp_path)
    for i in range(5):
        cache.put_many(FP, [(str(i), features(2, i))])
    held = [cache.get(FP, str(i)) for i in range(5)]
    assert all(same(got, features(2, i)) for i, got in enumerate(held))
    assert cache._map.cache_info().currsize == 2


def test_each_shard_is_looked_at_once(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    for shard in range(5):
        cache.put_many(FP, [(text_key(f"{shard} {i}"), features(1)) for i in range(20)])
    opened: list[tuple[str, Path]] = []
    for name in ("_read_index", "_map_shard"):
        whole = getattr(cache_module, name)
        monkeypatch.setattr(cache_module, name, lambda path, n=name, f=whole: opened.append((n, path)) or f(path))
    again = FeatureCache(tmp_path)
    for _ in range(2):
        assert again.missing(FP, [text_key("0 0")]) == []
        for i in range(20):
            assert again.get(FP, text_key(f"3 {i}")) is not None
    assert [name for name, _ in opened] == ["_read_index"] * 5 + ["_map_shard"]


def test_content_keys(tmp_path):
    assert text_key("a") != text_key("A")
    assert len(text_key("\ud800")) == 64
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    one.write_bytes(b"sound")
    two.write_bytes(b"sound")
    assert audio_key(one) == audio_key(two)
    assert len({audio_key(one), audio_key(one, 0.0, 1.0), audio_key(one, 0.0, 2.0), audio_key(one, 1.0, None)}) == 4
    before = audio_key(one)
    one.write_bytes(b"noise")
    os.utime(one, ns=(1, 1))
    assert audio_key(one) != before
    with pytest.raises(OSError, match="No such file"):
        audio_key(tmp_path / "none.wav")


def test_a_cache_of_somebody_else(tmp_path, monkeypatch):
    FeatureCache(tmp_path).put_many(FP, [("a", features(3))])
    left = tmp_path / FP / "x.tmp"
    left.touch()
    os.utime(left, (1, 1))

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert FeatureCache(tmp_path).missing(FP, ["a"]) == []


def test_a_shard_removed_meanwhile(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put_many(FP, [("a", features(3))])
    shards(tmp_path)[0].unlink()
    with pytest.raises(UserError, match=r"have gone .*run the same again"):
        cache.get(FP, "a")


def test_a_shard_whose_header_is_nested_without_end(tmp_path):
    (tmp_path / FP).mkdir()
    header = b"[" * 200_000
    (tmp_path / FP / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.warns(UserWarning, match="is damaged"):
        assert FeatureCache(tmp_path).missing(FP, ["a"]) == ["a"]
