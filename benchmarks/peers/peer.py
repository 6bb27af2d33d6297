"""Train and score one of MMSA's models; run by compare.py in MMSA's own environment. Imports nothing of ours.

    VENV/bin/python benchmarks/peers/peer.py FOLDER/mmsa.pkl mult 1111 result.json

MMSA is used as it is installed, by its own ``MMSA_run``. From outside it is given: a ``torch.cuda.set_device`` and a
``ReduceLROnPlateau(verbose=)`` that do no harm; MLF-DNN's training without the log line that stops it; loaders of valid
and test in the data's order; an end after so many epochs; valid MAE over all utterances as what chooses the epoch (its
own is the mean of the batches' means, and of MLF-DNN that of four losses); and ears for predictions and CPU times.
``result.json`` gets test predictions in the order of the pickle.
"""

# pyright: reportMissingImports=false

import argparse
import inspect
import json
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler

torch.cuda.set_device = lambda *_: None
_ReduceLROnPlateau = lr_scheduler.ReduceLROnPlateau


class _Quiet(_ReduceLROnPlateau):
    def __init__(self, *args, verbose=None, **kwargs):
        super().__init__(*args, **kwargs)


lr_scheduler.ReduceLROnPlateau = _Quiet

import MMSA  # noqa: E402
import MMSA.run as runner  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

# No picture: convolutions over its one frame must fit. MulT's batches of 4, of which 8 make a step, are 32 at once.
OVERRIDES = {"mult": {"conv1d_kernel_size_v": 1, "batch_size": 32, "update_epochs": 1}}
ELSEWHERE = {"mlf_dnn": "sims"}
"""Models that MMSA configures for another corpus alone: run by that configuration."""


def mend_mlf_dnn():
    """MLF-DNN's training logs a variable before it has one, and stops there: without that part of the line, it runs."""
    module = sys.modules["MMSA.trains.multiTask.MLF_DNN"]
    code = textwrap.dedent(inspect.getsource(module.MLF_DNN.do_train))
    exec(code.replace(" {dict_to_str(train_results)}", "", 1), vars(module))
    module.MLF_DNN.do_train = vars(module)["do_train"]


class EpochsDone(Exception):  # noqa: N818
    """The training has had its epochs."""


class Watched:
    """A loader of train that counts and times epochs."""

    def __init__(self, loader, most):
        self.loader, self.most, self.began = loader, most, []

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        self.began.append(time.process_time())
        if len(self.began) > self.most:
            raise EpochsDone
        return iter(self.loader)


class Ears:
    """What is heard of one training."""

    def __init__(self, epochs):
        self.epochs, self.heard, self.validated, self.test_seconds = epochs, [], [], 0.0
        self.model: Any = None
        self.train: Any = None
        self.test: Any = None

    def loaders(self, make):
        def made(args, workers):
            found = make(args, workers)
            for split in ("valid", "test"):
                rows, size = found[split].dataset, args["batch_size"]
                size -= len(rows) % size == 1  # some models squeeze the axis of a last batch of one away
                found[split] = DataLoader(rows, batch_size=size, shuffle=False)
            self.train = found["train"] = Watched(found["train"], self.epochs)
            return found

        return made

    def modelled(self, make):
        def made(args):
            self.model = make(args)
            return self.model

        return made

    def trained(self, make):
        def made(of, args):
            trainer = make(of, args)
            trainer.metrics = self._listening(trainer.metrics)
            trainer.do_test = self._timed(trainer.do_test)
            trainer.do_train = self._ending(trainer.do_train)
            return trainer

        return made

    def _listening(self, metrics):
        def measured(predicted, truth):
            self.heard.append((predicted.detach().flatten(), truth.detach().flatten()))
            return metrics(predicted, truth)

        return measured

    def _timed(self, test):
        def tested(model, loader, mode="VAL", **more):
            self.heard.clear()
            start = time.process_time()
            results = test(model, loader, mode=mode, **more)
            seconds = time.process_time() - start
            predicted, truth = self.heard[0]  # of the whole; MLF-DNN's unimodal ones follow
            results["Loss"] = (predicted - truth).abs().mean().item()
            if mode == "TEST":
                self.test, self.test_seconds = predicted, seconds
            else:
                self.validated.append(results["Loss"])
            return results

        return tested

    def _ending(self, train):
        def trained(*args, **more):
            try:
                return train(*args, **more)
            except EpochsDone:
                return None
            finally:
                self.train.began.append(time.process_time())

        return trained


def run(data, name, seed, epochs, patience):
    """One training and its test predictions, JSON-able."""
    ears = Ears(epochs)
    corpus = ELSEWHERE.get(name, "mosei")
    if corpus == "sims":
        mend_mlf_dnn()
        data = with_unimodal_labels(data)
    runner.MMDataLoader = ears.loaders(runner.MMDataLoader)
    runner.AMIO = ears.modelled(runner.AMIO)
    runner.ATIO.getTrain = ears.trained(runner.ATIO.getTrain)
    with tempfile.TemporaryDirectory() as scratch:
        folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), scratch)
        config = {"early_stop": patience, **OVERRIDES.get(name, {})}
        MMSA.MMSA_run(
            name, corpus, config=config, seeds=[seed], custom_feature=data, gpu_ids=[], num_workers=0,
            verbose_level=0, **folders,
        )  # fmt: skip
    began = ears.train.began
    done = len(ears.validated)
    return {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in ears.model.parameters() if p.requires_grad),
        "epochs": done,
        "best_epoch": 1 + min(range(done), key=ears.validated.__getitem__),
        "valid_mae": min(ears.validated),
        "epoch_seconds": [after - before for before, after in zip(began, began[1:])][:done],  # noqa: B905, RUF007
        "test_seconds": ears.test_seconds,
        "predictions": ears.test.tolist(),
    }


def with_unimodal_labels(data):
    """The same pickle, with the label of the whole for each modality too: MLF-DNN learns from four."""
    import pickle

    with open(data, "rb") as file:  # noqa: PTH123
        content = pickle.load(file)
    for split in ("train", "valid", "test"):
        for modality in "TAV":
            content[split][f"regression_labels_{modality}"] = content[split]["regression_labels"]
    other = Path(data).with_suffix(".four.pkl")
    with other.open("wb") as file:
        pickle.dump(content, file, protocol=4)
    return str(other)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--patience", type=int, default=3)
    options = parser.parse_args()
    result = run(options.data, options.model, options.seed, options.epochs, options.patience)
    options.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
