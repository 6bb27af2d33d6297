"""Let the model that comes with the package read voices by speaker, as a run of its recipe for voices has fitted it.

    mmolre train recipes/everyday-voices.yaml --data MOSI/manifest.csv --data RAVDESS/manifest.csv \\
        --set "teachers=[said.jsonl]" --set start_from=shipped --out runs/voices
    python scripts/ship_speakers.py runs/voices

For a model that has learned the speakers of valid itself (refit): what it says of them would tell too much. The
weights, and how an utterance is read on its own, stay as they are.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from mmolre.bundle import PIPELINE_FILE, SHIPPED, load_bundle
from mmolre.errors import run_script
from mmolre.evaluate.decision import Decision
from mmolre.files import write_text


def with_speakers(shipped: Decision, fitted: Decision) -> Decision:
    """The first, with what the second knows of speakers.

    Raises:
        SystemExit: the second knows nothing of them, or the first reads each utterance on its own.
    """
    if not fitted.speakers:
        raise SystemExit("the run knows nothing of speakers: has its recipe context: recording, and its valid voices?")
    if shipped.context is None:
        raise SystemExit("the shipped model reads each utterance on its own")
    return replace(shipped, speakers=fitted.speakers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    fitted = load_bundle(options.run).decision
    path = SHIPPED / PIPELINE_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["decision"] = with_speakers(Decision.from_json(content["decision"]), fitted).to_json()
    write_text(path, json.dumps(content, indent=2) + "\n")
    print(f"{path}: read by speaker: {', '.join(fitted.speakers)}")


if __name__ == "__main__":
    run_script(main)
