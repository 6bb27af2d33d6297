"""The commands about data, as they are typed."""

import json
import pickle
import subprocess
import sys

import pytest

from mmolre import cli


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The exit code, standard output and standard error of a command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mmolre", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.tsv.csv"
    path.write_text("utterance\tstars\tpart\nso good\t5\ttrain\nbad\t1\tdev\n")
    return path


def test_import_inspect_export_and_back(run, table, tmp_path):
    options = (
        "--map",
        "text=utterance",
        "--map",
        "sentiment=stars",
        "--map",
        "split=part",
        "--scale",
        "sentiment=1..5",
    )
    code, out, err = run("import", "csv", table, "--out", "c", "--delimiter", "tab", *options)
    assert code == 0
    assert out.startswith("2 utterances in c/manifest.csv\nrows       2: train 1, valid 1, test 0\n")
    assert "sentiment rescaled from [1, 5] to [-3, 3]" in err
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"manifest.csv", "provenance.json"}
    code, out, _ = run("inspect", "c/manifest.csv", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 2)
    for to, name in (("mmsa", "c.pkl"), ("parquet", "c.parquet"), ("datasets", "hub")):
        code, out, _ = run("export", "c/manifest.csv", "--to", to, "--out", name)
        assert (code, out) == (0, f"2 utterances in {name}\n")
    code, _, err = run("export", "c/manifest.csv", "--to", "parquet", "--padding", "front", "--out", "d")
    assert (code, err) == (
        2,
        "mmolre: --padding is for --to mmsa: parquet has sequences of their own lengths; leave it out\n",
    )
    code, _, err = run("export", "c/manifest.csv", "--to", "mmsa", "--padding", "left", "--out", "d")
    assert (code, "None" in err, "end" in err, "front" in err) == (2, False, True, True)
    assert run("export", "c/manifest.csv", "--to", "mmsa", "--padding", "front", "--out", "c.pkl")[0] == 0
    code, out, _ = run("import", "mmsa", "c.pkl", "--out", "back")
    assert code == 0
    assert (tmp_path / "back" / "manifest.csv").read_bytes() == (tmp_path / "c" / "manifest.csv").read_bytes()
    code, out, err = run("merge", "c/manifest.csv", "c.parquet", "--out", "merged.jsonl")
    assert (code, out.splitlines()[0]) == (0, "2 utterances in merged.jsonl")
    assert (tmp_path / "merged.provenance.json").is_file()


def test_a_report_fits_the_terminal(run, tmp_path):
    (tmp_path / "m.csv").write_text("id,text,split\na,so very good it is,train\nb,so very good it is,test\n")
    code, out, _ = run("inspect", "m.csv")
    assert code == 0
    shown = out.splitlines()
    assert max(map(len, shown)) <= 80
    start = next(i for i, line in enumerate(shown) if "1 texts are in more than one split" in line)
    assert shown[start + 1].startswith(" " * 11 + "is learned there")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "csv", "--out", "o"), "nothing to import"),
        (("import", "csv", "none.csv", "--out", "o"), "no such file"),
        (("import", "csv", "t.csv", "--out", "o", "--map", "text"), "--map text: expected KEY=VALUE"),
        (("import", "csv", "t.csv", "--out", "o", "--scale", "sentiment=5"), "expected LOW..HIGH"),
        (("import", "csv", "t.csv", "--out", "o", "--folds", "0.5,x"), "expected three fractions"),
        (("import", "ravdess", ".", "--out", "o", "--test-actors", "a"), "expected numbers"),
        (("import", "mmsa", "evil.pkl", "--out", "o"), "the pickle asks for builtins.eval"),
        (("import", "mag-bert", "evil.pkl", "--out", "o"), "the pickle asks for builtins.eval"),
        (("import", "mmsa", "evil.pkl", "--out", "o", "--label-range", "0..0"), "the first must be below the second"),
        (("import", "mmsa", "evil.pkl", "--out", "o", "--label-range=-inf..inf"), "both be finite"),
        (("inspect", "none.csv"), "no such manifest"),
        (("merge", "none.csv", "--out", "o"), "two manifests or more"),
        (("export", "none.csv", "--out", "o"), "no such manifest"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, words, message):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(eval, 4))
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mmolre: ")
    assert message in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", [["import"], ["import", "csv"], ["inspect"], ["merge"], ["export"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom mmolre.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'torch', 'pyarrow', 'rich.progress', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
