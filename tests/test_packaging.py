"""The wheel is the whole product, and the tree holds nothing that it should not."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import mmolre
from mmolre.bundle import PIPELINE_FILE, SHIPPED
from mmolre.encoders.weights import DEFAULTS, SOURCES, find
from mmolre.train.named import recipe_names

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pip(*arguments: object) -> None:
    own = ("--isolated", "--quiet", "--no-deps", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", *map(str, arguments), *own]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the tree; no network, nothing left behind in the tree."""
    pytest.importorskip("hatchling", reason="the extra `dev` is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-build-isolation", "-w", folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``run(*arguments)`` of a package installed from the wheel, away from the tree; gives the finished process."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip("install", "--no-index", "--target", site, wheel)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = (
            "import sys, mmolre.cli\n"
            f"assert mmolre.cli.__file__.startswith({str(site)!r}), mmolre.cli.__file__\n"
            "sys.argv[0] = 'mmolre'\nmmolre.cli.main()"
        )
        env = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "80"}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_holds_all_that_is_needed_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "src" / "mmolre"
    ours = {f"mmolre/{p.relative_to(package).as_posix()}" for p in package.rglob("*") if p.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    ours |= {f"mmolre/recipes/{path.name}" for path in recipe_names().values()}
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == ours
    assert {Path(name).name for name in info} >= {"METADATA", "RECORD", "entry_points.txt", "LICENSE"}
    assert wheel.stat().st_size < 12_000_000


def test_a_model_that_is_shipped_is_whole(wheel):
    if not (SHIPPED / PIPELINE_FILE).exists():
        pytest.skip("the package has no model yet")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {Path(i.filename).name: i.file_size for i in archive.infolist() if "mmolre/shipped/" in i.filename}
    assert sizes.keys() == {"config.json", "model.safetensors", "pipeline.json", "README.md"}
    assert sum(sizes.values()) <= 10_000_000


def test_the_installed_package_predicts(installed, tiny_run):
    done = installed("predict", "--model", str(tiny_run.folder), "--text", "i love this movie", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["modalities"] == ["text"]


def test_the_installed_package_knows_its_recipes(installed):
    done = installed("train", "no-such", "--data", "m.csv")
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"one of the package's recipes: {', '.join(recipe_names())}")
    done = installed("train", "mosei-frozen", "--data", "m.csv", "--set", "training.epoch=3")
    assert done.returncode == 2
    assert "recipes/mosei-frozen.yaml: unknown key training.epoch" in done.stderr


@pytest.mark.encoders
def test_the_installed_package_runs_the_demo(installed):
    if not (SHIPPED / PIPELINE_FILE).exists():
        pytest.skip("the package has no model yet")
    if missing := [role for role in DEFAULTS.values() if find(SOURCES[role]) is None]:
        pytest.skip(f"not fetched: {', '.join(missing)}")
    done = installed("demo")
    assert done.returncode == 0, done.stderr
    assert "text + synthetic voice" in done.stdout


def test_constraints_pin_every_dependency():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", pin) for pin in pins)
    pinned = {_normal(pin.partition("==")[0]) for pin in pins}
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)]
    assert {_normal(re.split(r"[\[<>=~!]", name)[0]) for name in wanted} - {"pip", "mmolre"} <= pinned


def test_the_version_is_said_once():
    assert PROJECT["project"]["version"] == mmolre.__version__
    assert f"## {mmolre.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_tells_of_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link
    for place in re.findall(r"`((?:src|docs|recipes|scripts|tests|benchmarks)/[^`]*)`", readme):
        assert (ROOT / place).exists() or ROOT / place == SHIPPED, place  # its own tests are above
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for option in re.findall(r"(--[a-z-]+)", readme):
        assert f" {option}" in reference, option
    for target in re.findall(r"make ([a-z]+)  ", readme):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# What must not be in the tree. The words are cut in two, so that this file does not hold them.

HOSTS = [
    *("pypi." + "org", "python" + "hosted.", "hugging" + "face.co", "//hf" + ".co"),
    *("npm" + "js.", "conda" + ".org", "pytorch" + ".org"),
]
PLACES = [r"/(home|root|Users|work|tmp)" + "/", r"\bshared" + "/"]
PICKLES = [r"\bimport (c?pickle|dill|joblib|shelve)\b", r"\btorch\.lo" + "ad\\(", "allow_pickle=" + "True"]


def tree() -> list[Path]:
    """Files that are the project's: what git knows, or all but what tools leave where there is no git."""
    listing = ["git", "ls-files", "-z"]
    known = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout if shutil.which("git") else ""
    if known:
        names = [ROOT / name for name in known.split("\0") if name]
    else:
        left = (".git", ".venv", "runs", "build", "dist", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis")
        names = [p for p in ROOT.rglob("*") if not set(p.relative_to(ROOT).parts) & set(left)]
    return [path for path in names if path.is_file()]


def lines():
    for path in tree():
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(content.splitlines(), 1):
            yield path.relative_to(ROOT), number, line


@pytest.mark.parametrize("pattern", [*map(re.escape, HOSTS), *PLACES])
def test_no_host_of_a_registry_and_no_place_outside_the_project(pattern):
    default = 'environ.get("MMOLRE_CORPORA")'  # the one exception, in tests alone
    found = [f"{path}:{n}: {line}" for path, n, line in lines() if re.search(pattern, line) and default not in line]
    assert not found


@pytest.mark.parametrize("pattern", PICKLES)
def test_nothing_is_unpickled(pattern):
    writes = Path("src/mmolre/data/export.py")  # MMSA reads pickles: one is written, none read
    found = [(path, n) for path, n, line in lines() if path.parts[0] == "src" and re.search(pattern, line)]
    assert not [f"{path}:{n}" for path, n in found if path != writes]
    assert not [n for path, n, line in lines() if path == writes and re.search(r"pickle\.(?!dump\()", line)]


def test_files_are_small_and_of_known_kinds():
    kinds = {"", ".py", ".md", ".toml", ".txt", ".yaml", ".json", ".jsonl", ".ogg", ".safetensors", ".svg", ".sh"}
    kinds |= {".html", ".png", ".typed"}
    for path in tree():
        kept = path.suffix == ".npz" and path.parent.parent.name == "experiments"  # scripts/keep_runs.py
        assert kept or path.suffix in kinds or path.name.startswith("."), path
        limit = 10_500_000 if path.suffix == ".safetensors" else 500_000
        if path.name.startswith("predictions-"):  # of a large corpus' valid and test
            limit = 1_500_000
        assert path.stat().st_size < limit, path
        assert path.suffix != ".safetensors" or SHIPPED in path.parents, path
