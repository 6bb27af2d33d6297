"""The human-scored texts that VADER was tested on (Hutto & Gilbert, ICWSM 2014): 23,703 tweets, sentences of Amazon and
film reviews and of newspaper editorials, MIT-licensed, in the source distribution of PyPI's vaderSentiment 3.3.2.
"""

import hashlib
import html
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmolre.data.importers._common import ImportSummary, count_splits, finish, rescale, split_of
from mmolre.errors import UserError
from mmolre.schema import Utterance

PIN = "vaderSentiment==3.3.2"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "hutto_ICWSM_2014.tar.gz"
INNER_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
FRACTIONS = (0.8, 0.1, 0.1)

_PARTS = {
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
_RANGE = (-4.0, 4.0)
_LINE = re.compile(r"(?P<id>(?P<document>\d+)(_\d+)?)\t(?P<score>-?[\d.]+)\t(?P<text>.*)")
_LARGEST = 1 << 26


def import_vader(sources: Sequence[Path], out: Path) -> ImportSummary:
    """Write the manifest: text and sentiment, the mean of the raters' -4 to 4 times 3/4.

    Split 80/10/10 by the hash of the document (an Amazon review, an editorial), or of the text where a text stands
    alone (tweets, films), so that neither a document nor a repeated tweet is in two splits.

    Args:
        sources: the source distribution (``vaderSentiment-3.3.2.tar.gz``) or the archive in it; empty: pip fetches it.

    Raises:
        UserError: pip could not fetch it, or the archive is not the one known by its sha256.
    """
    with tempfile.TemporaryDirectory(prefix="mmolre-vader-") as scratch:
        inner = Path(scratch) / INNER
        inner.write_bytes(_archive(Path(sources[0])) if sources else _fetched(Path(scratch)))
        rows = [row for part, name in _PARTS.items() for row in _rows(part, _member(inner, name))]
        notes = [f"split by document: {count_splits(rows)}", "sentiment rescaled from [-4, 4] to [-3, 3]"]
        return finish("vader", rows, out, audio_root=Path(out), notes=notes, inputs=[inner])


def _rows(part: str, content: bytes) -> Iterator[Utterance]:
    for number, line in enumerate(content.decode("utf-8-sig", "replace").split("\n"), 1):
        match = _LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            if line.strip():
                raise UserError(f"{_PARTS[part]}:{number}: not of the form ID, score and text with tabs between")
            continue
        text = html.unescape(match["text"]).strip()
        alone = "_" not in match["id"]
        words = " ".join(re.findall(r"\w+", text.lower()))
        group = (words or text) if alone else match["document"]
        if text:
            yield Utterance(
                id=f"{part}-{match['id']}",
                text=text,
                split=split_of(f"{part}:{group}", FRACTIONS),
                video_id=None if alone else f"{part}-{match['document']}",
                sentiment=round(rescale(float(match["score"]), *_RANGE), 6),
            )


def _archive(path: Path) -> bytes:
    """The inner archive, from itself or from the source distribution."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected {PIN}'s source distribution, or nothing to have pip fetch it")
    if path.name == INNER:
        try:
            return _checked(path.read_bytes(), path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return _checked(_member(path, INNER), path)


def _checked(content: bytes, where: Path) -> bytes:
    got = hashlib.sha256(content).hexdigest()
    if got != INNER_SHA256:
        raise UserError(f"{INNER} in {where} has a wrong hash: expected sha256 {INNER_SHA256}, got {got}")
    return content


def _member(archive: Path, name: str) -> bytes:
    """A file of a tar archive by its last name; nothing is written anywhere."""
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in opened:
                if member.name.rpartition("/")[2] == name and member.isfile() and member.size <= _LARGEST:
                    file = opened.extractfile(member)
                    if file is not None:
                        return file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{archive}: not a readable .tar.gz ({' '.join(str(error).split())})") from None
    raise UserError(f"{archive}: {name} is not in it")


def _fetched(scratch: Path) -> bytes:
    """Have pip download the source distribution, but not run it.

    pip checks the archive's hash and unpacks it, and would then run its setup.py to learn its dependencies. That needs
    setuptools in an environment of its own, which an impossible constraint keeps it from making: pip stops there, and
    leaves (--no-clean) what it has unpacked.
    """
    temporary = scratch / "pip"
    temporary.mkdir()
    requirements, constraint = scratch / "requirements.txt", scratch / "constraint.txt"
    requirements.write_text(f"{PIN} --hash=sha256:{SDIST_SHA256}\n")
    constraint.write_text("setuptools<0\n")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-clean", "--no-cache-dir", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-binary=:all:", "-r", str(requirements), "-d", str(scratch / "downloaded")],
        env=os.environ
        | {"TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
        | {"PIP_CONSTRAINT": str(constraint), "PIP_BUILD_CONSTRAINT": str(constraint)},
        capture_output=True,
        text=True,
        check=False,
    )
    for path in sorted(temporary.rglob(INNER)):
        return _checked(path.read_bytes(), path)
    if "No module named pip" in done.stderr:
        raise UserError(f"pip is not installed beside {sys.executable}: run `{sys.executable} -m ensurepip`")
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "Got " in line] or ["no reason given"]
    raise UserError(f"pip could not download {PIN} (is there a network?): {' '.join(lines[-1].split())}")
