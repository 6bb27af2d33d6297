import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmolre.recordings.report import render
from mmolre.recordings.sound import Sound, write_mp3
from mmolre.recordings.timeline import Alone, Moment, Timeline
from mmolre.schema import EMOTIONS
from recordings.chromium import Browser

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
RIGHT_ARROW = "\ue014"

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromedriver") and shutil.which("chromium")),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)


@pytest.fixture(scope="module")
def browser():
    opened = Browser()
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    moments = []
    for i in range(12):
        s = 2.8 * np.sin(i)
        chances = {e: float(abs(np.sin(i + k))) for k, e in enumerate(EMOTIONS)}
        alone = Alone(float(s), chances)
        text = f"Utterance number {i}." + (EVIL if i == 4 else "")
        moments.append(
            Moment(
                5.0 * i,
                5.0 * i + 4,
                text,
                "AB"[i % 2] + EVIL,
                float(s),
                max(s - 1, -3.0),
                min(s + 1, 3.0),
                chances,
                ["happy"],
                "happy",
                alone,
                alone,
                0.5,
                "happy",
            )
        )
    moments.append(Moment(58.0, 58.2, "Oh.", unscored="not enough speech"))
    facts = {"reads": ["text", "audio"], "sentiment_error_quantiles": {"all": {"low": -1.0, "high": 1.0, "n": 99}}}
    return Timeline(EVIL, "0", 60.0, moments, "en", "named", "a test", facts, [EVIL], "key")


@pytest.fixture(scope="module")
def page(timeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    tone = (8000 * np.sin(np.arange(60 * 16_000) / 10)).astype(np.int16)
    write_mp3(Sound(tone, 60.0), folder / "sound.mp3")
    (folder / "report.html").write_text("".join(render(timeline, (folder / "sound.mp3").read_bytes())))
    (folder / "beside.html").write_text("".join(render(timeline, "sound.mp3")))
    return folder / "report.html"


@pytest.fixture
def opened(browser, page) -> Browser:
    browser.open(page.as_uri())
    browser.wait("return document.querySelector('audio').readyState > 0")
    return browser


NOW = "return document.querySelector('audio').currentTime"


def test_the_sound_plays(opened):
    assert abs(opened.run("return document.querySelector('audio').duration") - 60) < 0.2
    opened.run("document.body.focus()")
    opened.press(" ")
    opened.wait("return document.querySelector('audio').currentTime > 0.3")
    opened.press(" ")
    assert opened.run("return document.querySelector('audio').paused")


def test_a_click_on_the_curve_jumps_and_shows_what_is_said_there(opened):
    opened.click("#curve", 0.52)  # 31.2 s
    opened.wait("return Math.abs(document.querySelector('audio').currentTime - 31.2) < 1.5", seconds=8)
    opened.wait("return document.querySelector('li[aria-current]') !== null")
    assert "Utterance number 6." in opened.run("return document.querySelector('li[aria-current]').innerText")
    assert "Utterance number 6." in opened.run("return document.getElementById('now').innerText")


def test_a_time_in_the_transcript_jumps(opened):
    opened.click(".transcript li:nth-child(9) button.t")
    opened.wait("return Math.abs(document.querySelector('audio').currentTime - 40) < 1.5")


def test_keys_alone_are_enough(opened):
    opened.run("document.getElementById('curve').focus()")
    opened.press(RIGHT_ARROW)
    opened.press(RIGHT_ARROW)
    opened.wait("return Math.abs(document.querySelector('audio').currentTime - 10) < 0.2")
    assert opened.run("return document.getElementById('curve').getAttribute('aria-valuetext')").startswith("0:10, sent")
    opened.press("n")
    opened.wait("return Math.abs(document.querySelector('audio').currentTime - 15) < 0.2")
    opened.press("p")
    opened.wait("return Math.abs(document.querySelector('audio').currentTime - 10) < 0.2")


def test_no_markup_from_outside_is_run_and_nothing_is_loaded(opened):
    assert opened.run("return window.hacked === undefined && document.images.length === 0")
    assert "<img" in opened.run("return document.querySelector('h1').textContent")  # as text
    assert opened.run("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('blob:'))") == []
    assert opened.log() == []  # no violation of the policy, no error


def test_sound_beside_the_page_plays_too(browser, page):
    browser.open(page.with_name("beside.html").as_uri())
    browser.wait("return document.querySelector('audio').readyState > 0")
    assert browser.log() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(opened, scheme):
    opened.media(prefers_color_scheme=scheme)
    lowest = opened.run(
        """
        const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92
          : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
        const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
        let lowest = 99;
        for (const e of document.querySelectorAll('p, h1, h2, h3, .said, .meta, .soft, th, td, button.t, .name')) {
          const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
          lowest = Math.min(lowest, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)); }
        return lowest;
        """
    )
    assert lowest >= 4.5  # WCAG AA


def test_it_fits_a_phone(opened):
    opened.width(390)
    assert opened.run("return document.documentElement.scrollWidth <= 390")


def test_it_fits_a_phone_whatever_the_names(browser, timeline, page):
    long = "unbroken" * 12
    moments = [replace(timeline.moments[0], speaker=long, text=long), timeline.moments[1]]
    named = page.with_name("long.html")
    told = replace(timeline, recording=long, transcript=f"the transcript {long}.srt", notes=[long], moments=moments)
    named.write_text("".join(render(told, (page.parent / "sound.mp3").read_bytes())))
    browser.open(named.as_uri())
    browser.width(390)
    assert browser.run("return document.documentElement.scrollWidth") <= 390


def test_keys_bring_what_they_go_to_into_sight_and_say_it(browser, timeline, page):
    moments = [replace(timeline.moments[0], start=i / 2, end=i / 2 + 0.1, text=f"Number {i}.") for i in range(100)]
    many = page.with_name("many.html")
    many.write_text("".join(render(replace(timeline, moments=moments), (page.parent / "sound.mp3").read_bytes())))
    browser.open(many.as_uri())
    browser.wait("return document.querySelector('audio').readyState > 0")
    for _ in range(40):
        browser.press("n")
    browser.wait("""
        const box = document.querySelector('li[aria-current]').getBoundingClientRect();
        return box.top > 0 && box.bottom < innerHeight""")
    assert "Number 40." in browser.run("return document.querySelector('[role=status]').textContent")


def test_the_previous_one_in_a_pause_is_the_one_just_heard(opened):
    opened.run("document.querySelector('audio').currentTime = 14.9")  # 10 to 14 has ended, 15 has not begun
    opened.wait("return document.querySelector('li[aria-current]') === null")
    opened.press("p")
    opened.wait("return Math.abs(document.querySelector('audio').currentTime - 10) < 0.2")


def test_without_speech_the_page_says_so(browser, timeline, page):
    silent = page.with_name("silent.html")
    silent.write_text("".join(render(replace(timeline, moments=[]), (page.parent / "sound.mp3").read_bytes())))
    browser.open(silent.as_uri())
    assert browser.run("return document.querySelector('.skip') === null")  # there is no transcript to go to
    assert "No speech found." in browser.run("return document.body.innerText")
    browser.wait("return document.querySelector('audio').readyState > 0")
    browser.press(" ")
    browser.wait("return document.querySelector('audio').currentTime > 0.3")
    assert browser.log() == []


def test_utterances_at_once_are_all_reached(browser, timeline, page):
    times = [(0.0, 4.0), (5.0, 20.0), (5.0, 9.0), (12.0, 13.0), (30.0, 31.0)]
    moments = [replace(timeline.moments[i], start=a, end=b, text=f"Number {i}.") for i, (a, b) in enumerate(times)]
    together = page.with_name("together.html")
    together.write_text("".join(render(replace(timeline, moments=moments), (page.parent / "sound.mp3").read_bytes())))
    browser.open(together.as_uri())
    browser.wait("return document.querySelector('audio').readyState > 0")
    shown = "return document.querySelector('li[aria-current] .said')?.textContent"
    seen = []
    for key in "nnnnppppn":
        browser.press(key)
        seen.append(browser.run(shown))
    # At 0 the first is current.
    assert seen == [f"Number {i}." for i in (1, 2, 3, 4, 3, 2, 1, 0, 1)]
    browser.run("document.querySelector('audio').currentTime = 17")  # the last that began is over, another goes on
    browser.wait(shown + " === 'Number 1.'")
    browser.run("document.querySelector('audio').currentTime = 25")
    browser.wait("return document.querySelector('li[aria-current]') === null")
    assert browser.log() == []
