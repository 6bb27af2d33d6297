"""The command line from end to end: exit codes, one-line errors, nothing half-written, and what --help costs."""

import errno
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

import mmolre
from mmolre import ModalityConfig, cli, terminal
from mmolre.data.cache import FeatureCache
from mmolre.encoders.text import TextEncoder
from outside import load_file
from tiny_corpus import MISSING, corpus_recipe, write_rows, write_wave

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "pydantic", "yaml", "av", "pyarrow", "sklearn", "rich.progress")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """``run(*arguments)`` in an empty folder: exit code, what was printed, what was said on stderr."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mmolre", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def recipe(tmp_path, tiny_encoders) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(corpus_recipe(tiny_encoders).model_dump(mode="json"), sort_keys=False))
    return path


# What it costs


@pytest.mark.parametrize("command", [[], ["train"], ["predict"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom mmolre.cli import main\n"
        f"sys.argv = {['mmolre', *command, '--help']!r}\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: mmolre")
    assert done.stdout.splitlines()[-1] == "[]"


def test_listing_encoders_and_bad_usage_need_no_torch():
    code = (
        "import sys\nfrom mmolre.cli import main\n"
        "for arguments in (['encoders', 'list'], ['predict'], ['train', 'mosei-frozen']):\n"
        "    sys.argv = ['mmolre', *arguments]\n"
        "    try: main()\n    except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# What goes well


def test_train_evaluate_predict(run, recipe, tiny_corpus, tmp_path):
    options = ["--data", tiny_corpus, "--out", "a run", "--cache", tmp_path / "cache"]
    code, out, err = run("train", recipe, *options)
    assert code == 3  # one row's sound is missing
    assert re.search(r"^epoch  1  loss \d", err, re.M)
    assert re.search(rf"^row {MISSING} \(manifest\.csv:9\): .*gone\.wav: No such file", err, re.M)
    assert "1 row could not be used" in err
    assert "failed-rows.jsonl" in err
    assert re.search(r"^a run: best epoch \d of 2, score ", out, re.M)
    assert f"next: mmolre evaluate 'a run' --data {tiny_corpus} --split test" in out

    code, out, _ = run("evaluate", "a run", "--data", tiny_corpus, "--cache", tmp_path / "cache")
    assert code == 0
    metrics = json.loads(Path("a run/metrics-test.json").read_text())
    assert 0 <= metrics["sentiment"]["mae"] <= 6
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = run("evaluate", "a run", "--data", tiny_corpus, "--modalities", "text", "--json")
    assert code == 0
    assert json.loads(out) == json.loads(Path("a run/metrics-test-text.json").read_text())
    assert json.loads(out)["modalities"].keys() == {"text"}

    code, out, err = run("predict", "--model", "a run", "--text", "i love this movie")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["sentiment", *mmolre.EMOTIONS, "top"]
    assert out.splitlines()[1].startswith("text ")
    assert max(map(len, out.splitlines())) <= 80


def test_refit(run, recipe, tiny_corpus, tmp_path):
    common = ["--data", tiny_corpus, "--cache", tmp_path / "cache"]
    assert run("train", recipe, *common, "--out", "chosen")[0] == 3
    code, out, err = run("train", recipe, *common, "--set", "refit=chosen")
    assert code == 3
    again = "runs/tiny-refit-seed0"  # not where the run that chose would be
    assert re.search(rf"^{again}: learned train and valid, \d of 2 epochs, ", out, re.M)
    assert re.search(r"^epoch  1  loss \d\.\d+$", err, re.M)
    refused(run("ablate", recipe, *common, "--set", "refit=chosen", "--out", "a"), "tiny: refit is of one run")
    assert not Path("a").exists()
    said = "this model has learned valid, too"
    for name, split, warned in ((again, "valid", True), (again, "test", False), ("chosen", "valid", False)):
        code, _, err = run("evaluate", name, *common, "--split", split)
        assert (code, said in err) == (0, warned)


def test_a_prediction_is_the_same_object_everywhere(run, tiny_run, tmp_path):
    sound = write_wave(tmp_path / "a.wav", 440)
    manifest = tmp_path / "one.jsonl"
    manifest.write_text(json.dumps({"id": "utterance", "text": "so good", "audio": "a.wav"}))
    model = ["--model", tiny_run.folder]
    code, out, _ = run("predict", *model, "--text", "so good", "--audio", sound, "--json")
    assert code == 0
    assert run("predict", *model, "--data", manifest, "--out", "p.jsonl") == (0, "1 predictions in p.jsonl\n", "")
    assert Path("p.jsonl").read_text() == out
    assert json.loads(out) == mmolre.load(tiny_run.folder).predict(text="so good", audio=sound).to_json()
    assert sorted(p.name for p in Path().iterdir()) == ["p.jsonl"]


@pytest.mark.parametrize("name", ['we\'ird "näme" 🎉.wav', "-dash.wav", "--text", "a\nb.wav", "über [bold]x[red].wav"])
def test_strange_file_names(run, tiny_run, tmp_path, name):
    write_wave(Path(name), 440)
    code, out, _ = run("predict", "--model", tiny_run.folder, f"--audio={name}", "--json")
    assert code == 0
    assert json.loads(out)["modalities"] == ["audio"]
    manifest = tmp_path / "here" / f"{name}.jsonl"
    manifest.write_text(json.dumps({"id": name, "audio": name}) + "\n" + json.dumps({"id": "b", "audio": "none [b]"}))
    code, out, err = run("predict", "--model", tiny_run.folder, f"--data={manifest.name}", f"--out={name}.out")
    assert code == 3
    assert json.loads(Path(f"{name}.out").read_text())["id"] == name
    assert "none [b]: No such file" in err


def test_a_long_text_is_cut_and_said_to_be(run, tiny_run):
    code, out, err = run("predict", "--model", tiny_run.folder, "--text", "good " * 10_000)
    assert code == 0
    assert err == "the input was longer than the encoder's window: its end was not seen\n"
    _, out, _ = run("predict", "--model", tiny_run.folder, "--text", "good " * 10_000, "--json")
    assert json.loads(out)["truncated"] is True


def test_a_warning_is_shown_once(capsys):
    with terminal.quiet_warnings():
        for message in ("odd times", "odd times", "odd names"):
            with warnings.catch_warnings():  # as libraries do: Python then forgets what it has shown
                warnings.simplefilter("ignore")
            warnings.warn(message, stacklevel=1)
    assert capsys.readouterr().err == "warning: odd times\nwarning: odd names\n"


def test_what_comes_from_outside_does_not_steer_the_terminal(capsys):
    terminal.plain("a\x1b]0;owned\x07b")
    terminal.note("c\x9b31md")
    shown = capsys.readouterr()
    assert shown.out == "a\ufffd]0;owned\ufffdb\n"
    assert shown.err == "c\ufffd31md\n"


def test_json_is_json_in_any_encoding(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.print_json({"text": "\U0001f600 ä"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode("latin-1")) == {"text": "\U0001f600 ä"}


def test_words_in_another_language_are_warned_of(run, tiny_run, tmp_path, monkeypatch):
    model = ("predict", "--model", tiny_run.folder)
    german = (
        "Ich habe das nicht gewusst, und es ist mir auch egal, aber der Film war wirklich sehr gut und die Musik auch."
    )
    assert "warning" not in run(*model, "--text", german)[2]  # who knows what that encoder knows?
    monkeypatch.setattr(TextEncoder, "english_only", True)
    warning = "warning: the words seem to be German; this model's text encoder knows English only\n"
    code, out, err = run(*model, "--text", german, "--json")
    assert code == 0
    assert err.startswith(warning)
    assert json.loads(out)["sentiment"] is not None
    english = "I did not know that, and it is all the same to me, but the film was very good and so was the music."
    assert "warning" not in run(*model, "--text", english)[2]
    assert "warning" not in run(*model, "--text", "sehr gut")[2]  # too few words to say
    manifest = write_rows(tmp_path / "m.csv", [{"id": i, "text": t} for i, t in enumerate(german.split(",") * 2)])
    code, _, err = run(*model, "--data", manifest, "--out", "p.jsonl")
    assert (code, err) == (0, warning)


def test_rows_that_fail_are_told_and_counted(run, tiny_run, tmp_path):
    write_wave(tmp_path / "long.wav", 440, 61, rate=2000)
    write_wave(tmp_path / "short.wav", 440, 0.01)
    (tmp_path / "not.wav").write_text("no sound")
    (tmp_path / "empty.wav").touch()
    names = ["gone.wav", "not.wav", "empty.wav", "short.wav", "long.wav", "."]
    lines = [{"id": "first", "text": "good"}]
    lines += [{"id": name, "text": "words do not save it", "audio": name} for name in names]
    lines += [{"id": "blank", "text": "\u200b"}, {"id": "last", "text": "bad"}]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    code, out, err = run("predict", "--model", tiny_run.folder, "--data", manifest, "--out", "p.jsonl")
    assert (code, out) == (3, "2 predictions in p.jsonl\n")
    assert "7 rows could not be used, the first 5 shown; all in p.errors.jsonl" in err
    assert [json.loads(line)["id"] for line in Path("p.jsonl").read_text().splitlines()] == ["first", "last"]
    failed = [json.loads(line) for line in Path("p.errors.jsonl").read_text().splitlines()]
    assert [f["id"] for f in failed] == [*names, "blank"]
    assert all(f["reason"] and "\n" not in f["reason"] for f in failed)
    assert all(line["id"] in err for line in failed[:5])

    manifest.write_text(json.dumps(lines[0]))  # mended: the old list of errors must not stay beside it
    assert run("predict", "--model", tiny_run.folder, "--data", manifest, "--out", "p.jsonl")[0] == 0
    assert sorted(p.name for p in Path().iterdir()) == ["p.jsonl"]


# What goes wrong


def manifest(text: str, name: str = "m.csv"):
    def make(folder: Path) -> list[str]:
        (folder / name).write_text(text, encoding="utf-8")
        return ["--data", str(folder / name)]

    return make


def sound(seconds: float):
    return lambda folder: ["--audio", str(write_wave(folder / "s.wav", 440, seconds, rate=2000))]


def content(data: bytes):
    def make(folder: Path) -> list[str]:
        (folder / "s.wav").write_bytes(data)
        return ["--audio", str(folder / "s.wav")]

    return make


BAD_MANIFESTS = {
    "missing column": (manifest("id,txet\na,hello\n"), "m.csv: no column 'text' or 'audio'; there are: id, txet"),
    "no id column": (manifest("text\nhello\n"), "no column 'id'"),
    "duplicate id": (manifest("id,text\na,hello\na,hi\n"), "m.csv:3: the id 'a' is also that of row 2"),
    "label out of range": (manifest("id,text,sentiment\na,hello,7\n"), "m.csv:2: sentiment is 7, outside [-3, 3]"),
    "unknown split": (manifest("id,text,split\na,hello,foo\n"), "m.csv:2: the split 'foo' is unknown"),
    "no such manifest": (lambda folder: ["--data", str(folder / "gone.csv")], "gone.csv: no such manifest"),
    "audio leaves its root": (manifest("id,audio\na,../../x.wav\n"), "m.csv:2: the audio path '../../x.wav' leaves"),
    "not CSV": (manifest('id,text\na,"hello\n'), "m.csv:2: not valid CSV"),
    "not UTF-8": (lambda f: ["--data", str(write_bytes(f / "m.csv", b"id,text\na,\xff\n"))], "save the file as UTF-8"),
}
BAD_UTTERANCES = {
    "nothing": (lambda folder: [], "nothing to predict: give --text"),
    "no such file": (lambda folder: ["--audio", "gone.wav"], "gone.wav: No such file or directory"),
    "not audio": (content(b"hello"), "s.wav: cannot be opened: not audio or video"),
    "empty file": (content(b""), "s.wav: the file is empty"),
    "no samples": (sound(0), "s.wav: no audio could be decoded"),
    "10 ms": (sound(0.01), "s.wav: 0.010 s of audio, at least 0.1 s needed"),
    "over 60 s": (sound(61), "s.wav: more than 60 s of audio in one utterance: split it"),
    "text empty": (lambda folder: ["--text", ""], "the text is empty"),
    "text blank": (lambda folder: ["--text", " \n\t"], "the text is empty"),
    "text and data": (lambda folder: ["--text", "a", "--data", "m.csv"], "give either --data, or --text and --audio"),
    "out alone": (lambda folder: ["--text", "a", "--out", "p"], "--out goes with --data"),
    "data alone": (lambda folder: ["--data", "m.csv"], "--data needs --out"),
    "no lines": (
        lambda folder: ["--data", "m.csv", "--out", "p.csv"],
        "give it a name that ends in .jsonl",
    ),
    "JSON of many": (lambda folder: ["--data", "m.csv", "--out", "p.jsonl", "--json"], "--json prints one prediction"),
}


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(result, fragment: str) -> None:
    code, out, err = result
    assert fragment in err
    assert (code, out) == (2, "")
    assert err.startswith("mmolre: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("make", "fragment"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifests(run, tiny_run, recipe, tmp_path, make, fragment):
    data = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(run("predict", "--model", tiny_run.folder, *data, "--out", "p.jsonl"), fragment)
    refused(run("evaluate", tiny_run.folder, *data, "--out", "m.json", "--cache", "cache"), fragment)
    assert sorted(tmp_path.rglob("*")) == before
    refused(run("train", recipe, *data, "--out", "run", "--cache", "cache"), fragment)
    assert not Path("run/model").exists()


@pytest.mark.parametrize("given", ["I am glad", "talk.mp4"])
def test_what_is_typed_first(run, given):
    refused(run("predict", given, "--json"), f"told what {shlex.quote(given)} is: --text for words, --audio for a file")


@pytest.mark.parametrize(("make", "fragment"), BAD_UTTERANCES.values(), ids=BAD_UTTERANCES)
def test_bad_utterances(run, tiny_run, tmp_path, make, fragment):
    arguments = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(run("predict", "--model", tiny_run.folder, *arguments), fragment)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_scored_is_not_overwritten_and_must_be_there(run, tiny_run, tiny_corpus, tmp_path):
    lines = "id,text,sentiment,happy\na,hello,1,\nb,bye,-1,\n"
    data = write_bytes(tmp_path / "m.csv", lines.encode())
    refused(run("evaluate", tiny_run.folder, "--data", data, "--out", data), "is to be read, and would be overwritten")
    assert data.read_text() == lines
    told = run("evaluate", tiny_run.folder, "--data", data, "--out", "m.json")
    refused(told, "split test: no row; there are none of a split, 2 of no split (fill in the column 'split')")
    data = write_bytes(tmp_path / "n.csv", b"id,text,split\na,hello,test\n")
    told = run("evaluate", tiny_run.folder, "--data", data, "--out", "m.json")
    refused(told, "no row with text or audio in it that is labelled for sentiment or emotion")
    assert not Path("m.json").exists()


def test_bad_train_options(run, recipe, tiny_corpus, monkeypatch):
    data = ["--data", tiny_corpus]
    refused(run("train", recipe), "no data: name a manifest with --data FILE")
    refused(run("evaluate", "x"), "no data: name a manifest with --data FILE")
    refused(run("train", "moseifrozen", *data), "one of the package's recipes: ")
    refused(run("train", "mosei-frozen", *data, "--set", "training.epoch=3"), "training.epoch; did you mean epochs?")
    refused(run("train", "mosei-frozen", *data, "--set", "epochs"), "--set epochs: expected KEY=VALUE")
    refused(run("train", recipe, *data, "--device", "nonsense"), "the device nonsense cannot be used here")
    for rest in (("evaluate", "shipped", *data), ("predict", "--text", "good")):
        refused(run(*rest, "--device", "nonsense"), "the device nonsense cannot be used here")
        refused(run(*rest, "--device", "meta"), "the device meta cannot be used here")
    refused(run("evaluate", "shipped", *data, "--out", "."), ". is a folder: name a file to write the metrics to")
    refused(run("train", recipe, "--data", "two\nlines.csv", "--out", "r"), "two lines.csv")
    assert not Path("r").exists()
    only = "training.primary is sentiment.mae, but the model has no task sentiment"
    told = run("train", recipe, *data, "--set", "model.tasks=[emotion]", "--out", "r")
    refused(told, f"{only}: choose a metric of what is labelled, e.g. --set 'training.primary=[emotion.macro_f1]'")
    refused(run("import", "ravdess", ".", "--out", "m", "--test-actors", "17,25"), "there is no actor 25, but 1 to 24")
    refused(run("train", recipe, *data, "--text-encoder", "a b"), "encoder 'a b' is not a folder, a role")
    refused(run("encoders", "fetch", "nothing"), "choose from minilm")
    refused(run("import", "mosi", "nowhere", "--out", "m.csv"), "nowhere: no such folder")
    refused(run("predict", "--model", "nowhere", "--text", "a"), "no model at nowhere")


def test_encoder_weights_missing_or_with_a_wrong_hash(run, tmp_path, monkeypatch):
    from mmolre.bundle import save_bundle
    from mmolre.encoders.text import TextEncoder
    from mmolre.evaluate.decision import Decision
    from mmolre.model.mmolre import MMoLRE
    from tiny_runs import tiny_config

    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path / "home"))
    model = MMoLRE(tiny_config(("text",)).model_copy(update={"modalities": {"text": ModalityConfig(width=384)}}))
    save_bundle(tmp_path / "m", model, {"text": TextEncoder("minilm")}, Decision(False, {}, {}), {})
    arguments = ["predict", "--model", tmp_path / "m", "--text", "a"]
    refused(run(*arguments), "encoder weights 'minilm' are not installed: run `mmolre encoders fetch minilm`")
    folder = tmp_path / "home" / "encoders" / "minilm"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"other weights")
    refused(run(*arguments), "model.safetensors has a wrong hash: expected sha256 53aa5117")


def test_predictions_never_overwrite_what_they_are_made_from(run, tiny_run, tmp_path):
    for name in ("m.jsonl", "m.errors.jsonl"):
        path = tmp_path / name
        path.write_text('{"id": "a", "text": "good"}')
        arguments = ["--data", path, "--out", tmp_path / "m.jsonl"]
        refused(run("predict", "--model", tiny_run.folder, *arguments), "give another --out")
        assert path.read_text() == '{"id": "a", "text": "good"}'
        path.unlink()


def test_a_full_disk(run, tiny_run, recipe, tiny_corpus, tmp_path, monkeypatch):
    import tempfile

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("p.jsonl").write_text("kept")
    code, _, _ = run("train", recipe, "--data", tiny_corpus, "--out", "run", "--cache", "cache")
    assert code == 3
    kept = Path("run/last.safetensors").read_bytes()
    monkeypatch.setattr(tempfile, "mkstemp", full)
    predict = ["predict", "--model", tiny_run.folder, "--data", tiny_corpus, "--out", "p.jsonl"]
    refused(run(*predict), "is full: free some space and run the same command again")
    assert Path("p.jsonl").read_text() == "kept"
    train = ["train", recipe, "--data", tiny_corpus]
    refused(run(*train, "--out", "run2", "--cache", "cache"), "is full")
    refused(run(*train, "--out", "run3", "--cache", "other"), "is full")
    assert Path("run/last.safetensors").read_bytes() == kept


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["encoders", "list"], ["--version"], ["--help"]])
def test_standard_output_on_a_full_disk_or_closed(arguments):
    command = [sys.executable, "-m", "mmolre.cli", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mmolre: [Errno 28] No space left on device\n"


def test_a_reader_that_has_seen_enough():
    command = f"{shlex.quote(sys.executable)} -m mmolre.cli encoders list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_standard_output_that_is_closed():
    command = f"{shlex.quote(sys.executable)} -m mmolre.cli encoders list >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["train"], ["predict", "--tex", "a"], ["import", "mosi"]])
def test_bad_usage_exits_with_2_and_names_the_help(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "--help" in err


# Being stopped


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_training_and_going_on(run, recipe, tiny_corpus, monkeypatch, tiny_run, times):
    shown = terminal._epoch_line
    heard = []

    def press(line):
        shown(line)
        if line["event"] == "epoch" and not heard:
            heard.append(line["epoch"])
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal, "_epoch_line", press)
    before = signal.getsignal(signal.SIGINT)
    arguments = ["train", recipe, "--data", tiny_corpus, "--out", "run", "--cache", "cache"]
    code, out, err = run(*arguments)
    assert (code, out) == (130, "")
    assert "press Ctrl-C again to stop at once" in err
    assert err.endswith("stopped; run the same command again to go on (run)\n")
    assert signal.getsignal(signal.SIGINT) is before
    code, out, err = run(*arguments)
    assert code == 3
    assert "of 2, score" in out
    # Stopped and gone on with is the same as never stopped.
    ours, theirs = Path("run/model/model.safetensors"), tiny_run.folder / "model" / "model.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()


def test_ctrl_c_while_encoding_keeps_what_is_done(run, recipe, tiny_corpus, monkeypatch):
    put, kept = FeatureCache.put_many, []

    def press(self, fingerprint, items):
        put(self, fingerprint, items)
        kept.append(fingerprint)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FeatureCache, "put_many", press)
    code, _, err = run("train", recipe, "--data", tiny_corpus, "--out", "run", "--cache", "cache")
    assert code == 130
    assert "stopped; run the same command again" in err
    assert len(kept) == 1
    assert any(Path("cache").rglob("*.safetensors"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_prediction_that_is_stopped_leaves_nothing(run, tiny_run, tiny_corpus, monkeypatch, number):
    from mmolre.predictor import Predictor

    def stopped(self, utterances):
        next(iter(utterances))
        if number == signal.SIGINT:  # which is ignored where the tests run in the background
            raise KeyboardInterrupt
        signal.raise_signal(number)
        yield

    monkeypatch.setattr(Predictor, "predict_many", stopped)
    before = signal.getsignal(signal.SIGTERM)
    result = run("predict", "--model", tiny_run.folder, "--data", tiny_corpus, "--out", "p.jsonl")
    assert result == (130, "", "stopped\n")
    assert list(Path().iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


# What is written about it


def test_the_generated_reference_is_up_to_date():
    module = load_file(ROOT / "scripts" / "cli_docs.py")
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.text(), "run `make docs`"
    assert all(f"## mmolre {name}\n" in module.text() for name in ("train", "evaluate", "predict", "import", "demo"))


def test_the_version(run):
    code, out, _ = run("--version")
    assert (code, out) == (0, f"mmolre {mmolre.__version__}\n")


def test_stopped_while_it_is_imported():
    code = (
        "import runpy, sys\n"
        "class Stopping:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mmolre.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stopping())\n"
        "runpy.run_module('mmolre', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
    done = subprocess.run([sys.executable, "-m", "mmolre", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"mmolre {mmolre.__version__}\n")
