"""The samples and the demo: what is shown, that it fits 80 columns, and that what it says to type works."""

import json
import re
import shlex
import sys

import pytest

import mmolre
from mmolre import bundle, cli, demo
from mmolre.data.manifest import read_manifest
from mmolre.data.media import load_audio
from mmolre.encoders.weights import DEFAULTS, SOURCES, find
from mmolre.train.named import recipe_names

LINES = [json.loads(line) for line in demo.MANIFEST.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def run_demo(capsys, monkeypatch, tmp_path):
    """Run the demo in an empty folder, on 80 columns; gives what was printed."""

    def run() -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["mmolre", "demo"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert (end.value.code, err) == (0, "Loading the model and its encoders …\n")
        return out

    return run


def test_samples_are_small_labelled_and_read_without_a_warning():
    utterances = read_manifest(demo.MANIFEST)
    assert {u.modalities for u in utterances} == set(demo.HEADINGS)
    assert len(utterances) >= 9
    for utterance, line in zip(utterances, LINES, strict=True):
        assert line["mood"]
        if utterance.audio:
            assert line["synthetic"] is True
            assert line["voice"].startswith("espeak-ng ")
            assert utterance.text or line["spoken"]
            assert utterance.audio.stat().st_size < 40_000
            wave = load_audio(utterance.audio)
            assert 1 < len(wave) / 16_000 < 6
            assert 0.1 < abs(wave).max() <= 1
    named = {u.audio.name for u in utterances if u.audio}
    assert {path.name for path in demo.SAMPLES.iterdir()} == named | {demo.MANIFEST.name}


def test_every_sample_stands_under_its_heading(run_demo, tiny_run, monkeypatch):
    monkeypatch.setattr(bundle, "SHIPPED", tiny_run.folder)
    out = run_demo()
    table, _, rest = out.partition("\n\n")
    assert all(len(line) <= 80 for line in table.splitlines())
    assert all(len(line) <= 80 for line in rest.splitlines() if " predict " not in line)
    folded = " ".join(re.sub(r"[^ ] +[-+]\d\.\d\d .*", lambda m: m[0][0], line).strip() for line in table.splitlines())
    places = [folded.index(heading) for heading in demo.HEADINGS.values()]
    assert places == sorted(places)
    for line in LINES:
        heading = list(demo.HEADINGS).index(tuple(m for m in ("text", "audio") if m in line))
        place = folded.index(f'"{line.get("text") or line["spoken"]}"')
        assert places[heading] < place < [*places, len(folded)][heading + 1]
    assert len(re.findall(r"[-+]\d\.\d\d( +[01]\.\d\d){6} +(none|[a-z]+)", table)) == len(LINES)
    assert "synthetic (espeak-ng)" in rest


def test_what_it_says_to_type_can_be_typed(run_demo, tiny_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bundle, "SHIPPED", tiny_run.folder)
    commands = [shlex.split(line) for line in run_demo().splitlines() if line.startswith("  mmolre ")]
    assert [words[1] for words in commands] == [*["predict"] * 4, "train", "evaluate", "predict"]
    assert commands[4][2] in recipe_names()
    for words in commands[:4]:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == len(LINES)


@pytest.mark.parametrize(
    ("called", "on_path", "shown"),
    [
        ("/x/y/.venv/bin/mmolre", None, ".venv/bin/mmolre"),
        ("/x/y/.venv/bin/mmolre", "/x/y/.venv/bin/mmolre", "mmolre"),
        ("/opt/a b/mmolre", "/usr/bin/mmolre", "'/opt/a b/mmolre'"),
        ("/x/y/cli.py", None, "mmolre"),
        ("/x/y/mmolre/__main__.py", "/usr/bin/mmolre", "python3 -m mmolre"),
    ],
)
def test_the_command_as_it_can_be_typed_here(monkeypatch, called, on_path, shown):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(demo.shutil, "which", lambda name: on_path)
    monkeypatch.setattr(
        demo.os.path, "relpath", lambda path: str(path).replace("/x/y/", "").replace("/opt", "../../opt")
    )
    assert demo._command() == shown


def test_without_its_model_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bundle, "SHIPPED", tmp_path / "gone")
    monkeypatch.setattr(sys, "argv", ["mmolre", "demo"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "mmolre: no model at " in capsys.readouterr().err


@pytest.mark.encoders
@pytest.mark.skipif(not (bundle.SHIPPED / bundle.PIPELINE_FILE).exists(), reason="the package has no model yet")
def test_the_shipped_model_reads_the_moods_that_we_wrote(run_demo):
    missing = [role for role in DEFAULTS.values() if find(SOURCES[role]) is None]
    if missing:
        pytest.skip(f"not fetched: {', '.join(missing)}")
    predictor = mmolre.load()
    found = {p.id: p for p in predictor.predict_many(read_manifest(demo.MANIFEST)) if isinstance(p, mmolre.Prediction)}
    assert found.keys() == {line["id"] for line in LINES}
    for name, p in found.items():
        if name in ("text-happy", "both-happy"):
            assert p.sentiment is not None
            assert p.sentiment > 0.5
            assert p.top == "happy"
        elif name in ("text-sad", "text-angry", "both-disgusted", "both-afraid"):
            assert p.sentiment is not None
            assert p.sentiment < 0
            assert p.emotions["happy"] < found["text-happy"].emotions["happy"]
    assert "text alone" in run_demo()
