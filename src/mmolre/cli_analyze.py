"""The command about one's own recordings. Only its signature and help live here, as in mmolre.cli."""

from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from tyro.conf import Positional, arg

from mmolre.errors import UserError

T = TypeVar("T")
Optional = Annotated[T | None, arg(help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]


def analyze(
    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ...", help_behavior_hint="")],
    /,
    transcript: Annotated[Optional[Path], arg(metavar="FILE")] = None,
    out: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    model: Annotated[Optional[str], arg(metavar="RUN")] = None,
    transcriber: Annotated[str, arg(metavar="NAME")] = "whisper-tiny-en",
    json: Flag = False,
) -> int:
    """Analyse one's own recordings: a timeline of sentiment and emotions, and a report to read.

    Args:
        paths: audio or video files, or folders of them. A name that begins with a dash goes after --.
        transcript: .srt, .vtt, .json or .txt; of several recordings, a folder with files of their names.
        out: for one file, the folder to write to, by default NAME-analysis; for several, a folder with one for each
            and index.html, by default analysis. What is there already is not done again.
        model: a run's folder, a model's folder or a hub id; by default the model that comes with the package.
        transcriber: a role, a folder with a CTranslate2 Whisper, or a size such as small.
        json: print one JSON object per recording instead of a summary.
    """
    if not paths:
        raise UserError("no recording: name a file or a folder")
    from mmolre.recordings.display import run

    return run(list(paths), transcript, out, model, transcriber, json)


def register(app: tyro.extras.SubcommandApp) -> None:
    """Add the command to the program's."""
    app.command(name="analyze")(analyze)
