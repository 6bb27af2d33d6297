#!/usr/bin/env python3
"""Make the sample utterances that come with the package: our own sentences, spoken by espeak-ng.

Needs the command espeak-ng (Debian: apt-get install espeak-ng) and the project's environment:
    .venv/bin/python scripts/make_samples.py
"""

import json
import subprocess
import tempfile
from pathlib import Path

import av
from av.audio.resampler import AudioResampler

FOLDER = Path(__file__).parents[1] / "src" / "mmolre" / "samples"
RATE = 16_000

# kind, id, mood that we meant, words, and for voices: espeak-ng's voice, pitch 0-99, words a minute, loudness 0-200
SAMPLES = [
    ("text", "text-happy", "happy", "I passed the exam, we are all celebrating!"),
    ("text", "text-sad", "sad", "Grandfather died today. I miss him."),
    ("text", "text-angry", "angry", "They lied to us again. I am sick of this!"),
    ("text", "text-neutral", "neutral", "The bus leaves at ten past eight."),
    ("voice", "voice-bright", "happy", "You will not believe what happened today!", "en-us+f3", 80, 190, 130),
    ("voice", "voice-low", "sad", "I do not think that I can do this any more.", "en-us+m3", 15, 105, 60),
    ("voice", "voice-loud", "angry", "Get out of my house, and do not come back!", "en-us+m7", 55, 215, 200),
    ("both", "both-happy", "happy", "This is the best day of my life, thank you!", "en-us+f4", 80, 185, 130),
    ("both", "both-afraid", "afraid", "Something moves in the cellar. I am afraid.", "en-us+f2", 70, 200, 70),
    ("both", "both-disgusted", "disgusted", "What a disgusting film, I want to leave.", "en-gb", 30, 140, 110),
]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    lines = []
    for kind, name, mood, words, *voice in SAMPLES:
        row: dict[str, object] = {"id": name, "mood": mood}
        if kind != "voice":
            row["text"] = words
        if voice:
            speak(FOLDER / f"{name}.ogg", words, *voice)
            row |= {"audio": f"{name}.ogg", "synthetic": True} | ({"spoken": words} if kind == "voice" else {})
            row["voice"] = f"espeak-ng {voice[0]}, pitch {voice[1]}, {voice[2]} words a minute, loudness {voice[3]}"
        lines.append(json.dumps(row) + "\n")
    (FOLDER / "samples.jsonl").write_text("".join(lines), encoding="utf-8")


def speak(path: Path, words: str, voice: str, pitch: int, speed: int, loudness: int) -> None:
    """Write an Ogg Opus file, mono, 16 kHz. The same words and settings give the same bytes."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as wave:
        options = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-a", str(loudness), "-w", wave.name]
        subprocess.run(["espeak-ng", *options, words], check=True)
        with av.open(wave.name) as source, av.open(path, "w", options={"fflags": "+bitexact"}) as target:
            stream = target.add_stream("libopus", rate=RATE)
            stream.bit_rate = 24_000
            resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
            for frame in [*source.decode(audio=0), None]:
                for piece in resampler.resample(frame):
                    target.mux(stream.encode(piece))
            target.mux(stream.encode(None))


if __name__ == "__main__":
    main()
