import json
import re

from mmolre.recordings.charts import render
from mmolre.recordings.timeline import Moment, Timeline, read_timeline


def timeline(count: int) -> Timeline:
    moments = [Moment(5.0 * i, 5.0 * i + 4, "words", sentiment=2.0 * (-1) ** i) for i in range(count)]
    return Timeline("a.wav", "0", 5.0 * count, moments, "en", "named", "a test", {}, [], "key")


def heights(page: str, kind: str) -> list[float]:
    """Of the points of the curve's paths; 60 is a sentiment of 0, 20 and 100 are +2 and -2."""
    paths = re.findall(rf'<path class="{kind}[^"]*" d="([^"]*)"', page)
    return [float(y) for path in paths for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]


def test_few_points_are_joined():
    page = render(timeline(20))
    assert heights(page, "line") == heights(page, "dot") == [20.0, 100.0] * 10
    assert "next to each other" not in page


def test_many_points_get_the_line_of_their_running_mean():
    page = render(timeline(200))
    assert heights(page, "dot") == [20.0, 100.0] * 100
    assert all(abs(y - 60) < 15 for y in heights(page, "line"))
    assert "mean of 7 next to each other" in page


def test_more_points_than_can_be_told_apart_become_means():
    page = render(timeline(2000))
    assert len(heights(page, "dot")) == 500
    assert "a dot is the mean of 4 utterances" in page
    assert "a dot is an utterance" not in page
    assert "a dot is an utterance" in render(timeline(200))


def test_the_highest_of_an_emotion_is_an_utterances_own():
    moments = [
        Moment(5.0 * i, 5.0 * i + 4, "words", emotions={"anger": 0.99 if i == 700 else 0.1}) for i in range(1600)
    ]
    page = render(Timeline("a.wav", "0", 8000.0, moments, "en", "named", "a test", {}, [], "key"))
    assert "anger: at most 99%, at 58:20" in page


def test_a_file_with_odd_times_is_no_timeline(tmp_path):
    path = tmp_path / "timeline.json"
    content = timeline(2).to_json()
    path.write_text(json.dumps(content))
    assert read_timeline(path) == timeline(2)
    for odd in (None, "5", float("nan"), True):
        path.write_text(json.dumps(content | {"seconds": odd}))
        assert read_timeline(path) is None
    path.write_text(json.dumps(content | {"moments": [content["moments"][0] | {"end": None}]}))
    assert read_timeline(path) is None
