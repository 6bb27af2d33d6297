"""How the shipped model came to read voices by speaker."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import mmolre
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.speaker import Speakers
from outside import load_file

script = load_file(Path(__file__).parents[1] / "scripts" / "ship_speakers.py")


def test_only_what_is_read_by_speaker_changes():
    shipped = mmolre.load().bundle.decision
    speakers = {"audio": Speakers.from_json({"means": np.ones((7, 6)).tolist(), "within": np.eye(6).tolist()})}
    limits = replace(shipped.thresholds["audio"], micro_f1=0.123)
    others = {key: replace(t, micro_f1=0.9) for key, t in shipped.context_thresholds.items()}
    fitted = Decision(False, {}, {}, speakers=speakers, context_thresholds=others | {"audio": limits})
    found = script.with_speakers(shipped, fitted)
    assert found.speakers == speakers
    assert found.context_thresholds == shipped.context_thresholds | {"audio": limits}
    assert replace(found, speakers={}, context_thresholds={}) == replace(shipped, speakers={}, context_thresholds={})


def test_the_shipped_model_reads_voices_by_speaker():
    decision = mmolre.load().bundle.decision
    assert set(decision.speakers) == {"audio"}
    assert decision.calibration["audio"].exclusive
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
