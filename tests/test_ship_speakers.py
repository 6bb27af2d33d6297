"""How the shipped model came to read voices by speaker."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmolre
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.speaker import Speakers
from outside import load_file

script = load_file(Path(__file__).parents[1] / "scripts" / "ship_speakers.py")


def test_only_what_is_read_by_speaker_changes():
    shipped = mmolre.load().bundle.decision
    speakers = {"audio": Speakers.from_json({"means": np.ones((7, 6)).tolist(), "within": np.eye(6).tolist()})}
    fitted = Decision(False, {}, {}, speakers=speakers)
    found = script.with_speakers(shipped, fitted)
    assert found.speakers == speakers
    assert replace(found, speakers=shipped.speakers) == shipped
    with pytest.raises(SystemExit, match="knows nothing of speakers"):
        script.with_speakers(shipped, Decision(False, {}, {}))
    with pytest.raises(SystemExit, match="each utterance on its own"):
        script.with_speakers(replace(shipped, context=None), fitted)


def test_the_shipped_model_reads_voices_by_speaker():
    decision = mmolre.load().bundle.decision
    assert set(decision.speakers) == {"audio"}
    assert decision.calibration["audio"].exclusive
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
