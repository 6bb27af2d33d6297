import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmolre.data import media
from mmolre.data.media import MediaError, duration, load_audio
from mmolre.recordings.sound import open_sound

LOSSLESS = [("wav", "pcm_s16le"), ("flac", "flac")]
LOSSY = [("mp3", "libmp3lame"), ("m4a", "aac"), ("ts", "aac"), ("opus", "libopus")]


def signal(seconds: float, rate: int = 16_000) -> np.ndarray:
    """A rising tone with a little noise, so that no two stretches are alike."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, len(t))
    return (0.5 * np.sin(2 * np.pi * (200 + 10 * t) * t) + noise).clip(-1, 1).astype(np.float32)


def encode(path: Path, samples: np.ndarray, codec: str, rate: int = 16_000, layout: str = "mono") -> Path:
    """Write (channels, n) or (n,) samples with PyAV."""
    pcm = (np.atleast_2d(samples).T.reshape(1, -1) * 32767).round().astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    """40 s of the signal in each format, made once."""
    folder = tmp_path_factory.mktemp("tone")
    made: dict[str, Path] = {}

    def make(suffix: str, codec: str) -> Path:
        if suffix not in made:
            rate = 48_000 if codec == "libopus" else 16_000
            made[suffix] = encode(folder / f"tone.{suffix}", signal(40, rate), codec, rate)
        return made[suffix]

    return make


def near(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two stretches of sound."""
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


@pytest.mark.parametrize(("suffix", "codec"), LOSSLESS)
def test_lossless_files_come_back_as_they_were(tone, suffix, codec):
    audio = load_audio(tone(suffix, codec))
    assert (audio.dtype, audio.shape) == (np.float32, (640_000,))
    np.testing.assert_allclose(audio, signal(40), atol=1e-4)
    assert duration(tone(suffix, codec)) == 40.0


@pytest.mark.parametrize(("suffix", "codec"), LOSSY)
def test_lossy_files_come_back_nearly_and_in_time(tone, suffix, codec):
    path = tone(suffix, codec)
    assert duration(path) == pytest.approx(40, abs=0.15)
    audio = load_audio(path)
    assert len(audio) / 16_000 == pytest.approx(40, abs=0.15)
    window = signal(40)[80_000:96_000]
    likeness = np.correlate(audio[78_000:98_000], window, "valid")
    delay = int(likeness.argmax()) - 2_000
    # An MPEG transport stream cannot say that the encoder's first frame is run-up, so it stays.
    assert delay == pytest.approx(1024 if suffix == "ts" else 0, abs=1)
    assert near(audio[80_000 + delay :], window) > 0.98


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.floats(0, 39), length=st.floats(0.1, 10))
@pytest.mark.parametrize(("suffix", "codec"), LOSSLESS)
def test_a_lossless_cut_is_the_slice_of_the_full_decode(tone, suffix, codec, start, length):
    full = load_audio(tone(suffix, codec))
    cut = load_audio(tone(suffix, codec), start=start, end=start + length)
    first = round(start * 16_000)
    assert abs(len(cut) - (min(round((start + length) * 16_000), 640_000) - first)) <= 1
    assert any(np.array_equal(cut[1:-1], full[first + d :][1 : len(cut) - 1]) for d in (0, -1, 1))


@pytest.mark.parametrize(("suffix", "codec"), LOSSY)
@pytest.mark.parametrize("start", [0.5, 19.9, 20.0, 25.3217, 38.0])
def test_a_lossy_cut_is_nearly_the_slice_of_the_full_decode(tone, suffix, codec, start):
    rate = 48_000 if codec == "libopus" else 16_000  # its own: resampling would begin between two samples
    full = load_audio(tone(suffix, codec), sample_rate=rate)
    cut = load_audio(tone(suffix, codec), start=start, end=start + 1.5, sample_rate=rate)
    first = round(start * rate)
    assert len(cut) == pytest.approx(1.5 * rate, abs=1)
    assert near(cut, full[first:]) > 0.999


def test_far_cuts_seek_and_do_not_decode_all(tone, monkeypatch):
    decoded = []
    mono = media._mono
    monkeypatch.setattr(media, "_mono", lambda frame: decoded.append(frame.samples) or mono(frame))
    frames = media._frames
    seen = []

    def counted(*args, **kwargs):
        for time, frame in frames(*args, **kwargs):
            seen.append(time)
            yield time, frame

    monkeypatch.setattr(media, "_frames", counted)
    load_audio(tone("flac", "flac"), start=35, end=36)
    assert 33 < seen[0] <= 34
    assert seen[-1] < 36.5
    assert sum(decoded) < 2 * 16_000


def test_an_index_that_lands_behind_the_start_is_not_believed(tone, monkeypatch):
    path = tone("flac", "flac")
    honest = load_audio(path, start=25, end=26)
    frames = media._frames

    def late(container, stream, seek_to=None):
        return frames(container, stream, seek_to and seek_to + 5)

    monkeypatch.setattr(media, "_frames", late)
    np.testing.assert_array_equal(load_audio(path, start=25, end=26), honest)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_is_resampled(tmp_path, rate):
    t = np.arange(rate) / rate
    path = encode(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), "pcm_s16le", rate)
    audio = load_audio(path)
    assert len(audio) == 16_000
    want = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(audio[200:-200], want[200:-200], atol=2e-3)
    assert len(load_audio(path, sample_rate=8_000)) == 8_000


@pytest.mark.parametrize(("suffix", "codec"), [*LOSSLESS, ("wav", "pcm_f32le")])
def test_channels_are_averaged(tmp_path, suffix, codec):
    both = np.stack([signal(1), np.zeros(16_000, np.float32)])
    path = encode(tmp_path / f"a.{suffix}", both, codec, layout="stereo")
    np.testing.assert_allclose(load_audio(path), signal(1) / 2, atol=1e-4)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_has_full_scale_one(tmp_path, codec):
    path = encode(tmp_path / "a.wav", signal(1), codec)
    np.testing.assert_allclose(load_audio(path), signal(1), atol=1e-2 if codec == "pcm_u8" else 1e-4)


def float_wav(path: Path, samples: np.ndarray) -> Path:
    """A WAV file of 32-bit floats as they are, whatever they are."""
    data = samples.astype("<f4").tobytes()
    head = b"".join(
        n.to_bytes(size, "little") for n, size in [(16, 4), (3, 2), (1, 2), (16_000, 4), (64_000, 4), (4, 2), (32, 2)]
    )
    riff = b"WAVEfmt " + head + b"data" + len(data).to_bytes(4, "little") + data
    path.write_bytes(b"RIFF" + len(riff).to_bytes(4, "little") + riff)
    return path


def test_what_is_not_finite_is_silence_and_what_is_too_loud_is_clipped(tmp_path):
    samples = signal(1)
    samples[100:104] = [np.nan, np.inf, -np.inf, 3e38]
    audio = load_audio(float_wav(tmp_path / "a.wav", samples))
    np.testing.assert_array_equal(audio[98:106], [*samples[98:100], 0, 0, 0, 1, *samples[104:106]])


def test_resampling_stays_in_range(tmp_path):
    square = np.sign(np.sin(2 * np.pi * 100 * np.arange(44_100) / 44_100))
    audio = load_audio(encode(tmp_path / "a.wav", square, "pcm_s16le", 44_100))
    assert np.abs(audio).max() == 1.0


def test_a_video_without_sound(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 16
        video.pix_fmt = "yuv420p"
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(video.encode(None))
    with pytest.raises(MediaError, match=r"v\.mp4: no audio track"):
        load_audio(path)
    with pytest.raises(MediaError, match="no audio track"):
        duration(path)


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.09])
def test_too_short(tmp_path, seconds):
    path = encode(tmp_path / "a.wav", signal(seconds), "pcm_s16le")
    with pytest.raises(MediaError, match=rf"a\.wav: {seconds:.3f} s of audio, at least 0.1 s needed"):
        load_audio(path)


def test_too_long_is_refused_and_a_codec_s_padding_is_not(tmp_path, tone):
    path = tone("wav", "pcm_s16le")
    with pytest.raises(MediaError, match=r"more than 30 s of audio in one utterance: .*at most 30 s.*start and end"):
        load_audio(path, max_seconds=30)
    assert len(load_audio(path, max_seconds=40)) == 640_000
    assert len(load_audio(path, max_seconds=39.95)) == round(39.95 * 16_000)
    assert len(load_audio(path, start=5, end=35, max_seconds=30)) == 480_000
    assert len(load_audio(path, max_seconds=float("inf"))) == 640_000


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (40, None, "start 40 s is beyond the end of the audio .40.000 s"),
        (100, 101, "start 100 s is beyond the end"),
        (5, 5, "start 5 s is not before end 5 s"),
        (None, 0, "start 0 s is not before end 0 s"),
        (39.95, 50, r"0\.050 s of audio, at least 0\.1 s needed"),
    ],
)
@pytest.mark.parametrize(("suffix", "codec"), LOSSLESS)
def test_cuts_that_hold_nothing(tone, suffix, codec, start, end, message):
    with pytest.raises(MediaError, match=message):
        load_audio(tone(suffix, codec), start=start, end=end)


def test_cuts_that_reach_beyond_the_file_are_the_files_part(tone):
    path = tone("flac", "flac")
    assert len(load_audio(path, start=-1, end=2)) == 32_000
    assert len(load_audio(path, start=39, end=60)) == 16_000
    assert len(load_audio(path, start=38)) == 32_000


def test_what_is_no_audio(tmp_path, capfd):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("These are words, not sounds.\n" * 50)
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(20_000))
    (tmp_path / "zeros.flac").write_bytes(bytes(10_000))
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    encode(tmp_path / "head.wav", signal(1), "pcm_s16le")
    (tmp_path / "head.wav").write_bytes((tmp_path / "head.wav").read_bytes()[:44])
    for name, message in [
        ("none.wav", "no such file"),
        (".", "a folder or device, not a media file"),
        ("empty.wav", "the file is empty"),
        ("text.wav", "not audio or video, or damaged"),
        ("noise.mp3", "not audio or video, or damaged"),
        ("zeros.flac", "no audio could be decoded"),
        ("list.m3u8", "cannot be opened"),
        ("head.wav", "cannot be opened|no audio could be decoded"),
    ]:
        with pytest.raises(MediaError, match=message) as caught:
            load_audio(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path))
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "codec"), [*LOSSLESS, ("mp3", "libmp3lame"), ("ts", "aac"), ("opus", "libopus")])
def test_a_file_that_is_cut_off_gives_what_is_there(tone, tmp_path, suffix, codec):
    whole = tone(suffix, codec)
    part = tmp_path / whole.name
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    audio = load_audio(part)
    assert 17 * 16_000 < len(audio) < 22 * 16_000
    np.testing.assert_allclose(audio[: 16 * 16_000], load_audio(whole)[: 16 * 16_000], atol=1e-6)
    with pytest.raises(MediaError, match="beyond the end"):
        load_audio(part, start=35, end=36)


@pytest.mark.parametrize(("suffix", "codec"), [("flac", "flac"), ("ts", "aac"), ("opus", "libopus")])
def test_a_damaged_stretch_is_passed_over(tone, tmp_path, suffix, codec):
    whole = tone(suffix, codec)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / whole.name).write_bytes(data)
    audio = load_audio(tmp_path / whole.name)
    assert len(audio) > 36 * 16_000
    np.testing.assert_allclose(audio[: 16 * 16_000], load_audio(whole)[: 16 * 16_000], atol=1e-6)
    assert near(audio[-16_000:], load_audio(whole)[-16_000:]) > 0.99


def test_a_hole_in_a_recording_does_not_shift_what_follows(tmp_path):
    path = tmp_path / "a.mkv"
    t = np.arange(2 * 16_000) / 16_000
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for begin, tone in [(0, 440), (7, 880)]:
            for low in range(0, len(t), 1600):
                pcm = (16_000 * np.sin(2 * np.pi * tone * t[None, low : low + 1600])).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, begin * 16_000 + low, Fraction(1, 16_000)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    cut = load_audio(path, start=7.5, end=8.5)
    assert len(cut) == pytest.approx(16_000, abs=16)
    assert np.abs(np.fft.rfft(cut)).argmax() == pytest.approx(880, abs=1)


def test_a_cut_of_a_long_recording_is_bounded_in_memory(tmp_path):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:  # 30 minutes of stereo: 318 MB as float32
        file.setparams((2, 2, 22_050, 0, "NONE", ""))
        for _ in range(30):
            file.writeframes(bytes(2 * 2 * 22_050 * 60))
    load_audio(path, end=1)
    tracemalloc.start()
    try:
        assert len(load_audio(path, start=1700, end=1710)) == 160_000
        with pytest.raises(MediaError, match="more than 60 s"):
            load_audio(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.corpus
def test_real_clips(corpora):
    for video in sorted((corpora / "mosi" / "video").glob("*.mp4")):
        clip = corpora / "mosi" / "audio" / f"{video.stem}.flac"
        audio = load_audio(video)
        assert len(audio) / 16_000 == pytest.approx(duration(video), abs=0.1)
        if clip.is_file():
            assert len(load_audio(clip)) == pytest.approx(duration(clip) * 16_000, abs=1)
            assert near(audio, load_audio(clip)) > 0.9
    longest = max((corpora / "mosi" / "audio").glob("*.flac"), key=lambda path: path.stat().st_size)
    full = load_audio(longest)
    np.testing.assert_array_equal(load_audio(longest, start=30, end=31), full[480_000:496_000])


def test_streaming_gives_what_loading_gives(tmp_path):
    path = encode(tmp_path / "a.wav", signal(3.0, 44_100), "pcm_s16le", rate=44_100)
    streamed = np.concatenate(list(media.stream_audio(path)))
    loaded = load_audio(path)
    assert abs(len(streamed) - len(loaded)) <= 1
    n = min(len(streamed), len(loaded))
    np.testing.assert_allclose(streamed[:n], loaded[:n], atol=1e-3)


def write_blocks(path: Path, *starts: int, **options: str) -> Path:
    """Half a second of sound at each of the starts in seconds, in Matroska."""
    with av.open(str(path), "w", format="matroska", options=options) as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in starts:
            frame = av.AudioFrame.from_ndarray(np.full((1, 8_000), 8_000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start * 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("options", [{}, {"live": "1"}])  # a live one does not say how long it is
def test_streaming_keeps_the_clock_of_sound_with_a_gap(tmp_path, options):
    path = write_blocks(tmp_path / "gap.mkv", 0, 3, **options)
    loud = np.abs(np.concatenate(list(media.stream_audio(path)))) > 0.1
    assert len(loud) == pytest.approx(56_000, abs=160)
    assert loud[400:7_600].all()
    assert not loud[8_400:47_600].any()
    assert loud[48_400:55_600].all()


def test_a_timestamp_of_days_is_no_gap_where_nothing_says_how_long_it_is(tmp_path):
    path = write_blocks(tmp_path / "a.mkv", 0, 1_000_000, 1_000_001, live="1")
    assert sum(map(len, media.stream_audio(path))) == pytest.approx(1.5 * 16_000, abs=160)


def test_sound_that_ends_before_the_picture_is_not_cut_off(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        video = container.add_stream("mpeg4", rate=1)
        video.width = video.height = 16
        video.pix_fmt = "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 8_000, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux([*sound.encode(frame), *sound.encode(None)])
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(video.encode(None))
    assert duration(path) == 1.0
    with open_sound(path) as read:
        assert not read.cut_off


def test_streaming_refuses_what_holds_no_sound(tmp_path):
    (tmp_path / "no.wav").write_bytes(b"not media at all")
    with pytest.raises(MediaError, match="not audio or video"):
        list(media.stream_audio(tmp_path / "no.wav"))


def test_a_stream_without_a_header_is_not_cut_off(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.3, 640_000).clip(-1, 1)
    path = encode(tmp_path / "a.aac", np.concatenate([np.zeros(320_000), noise]).astype(np.float32), "aac")
    assert duration(path) > 100  # judged by its quiet beginning
    with open_sound(path) as sound:
        assert sound.seconds == pytest.approx(60, abs=0.2)
        assert sound.promised == sound.seconds
        assert not sound.cut_off
