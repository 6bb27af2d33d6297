"""Keep an experiment's numbers under results/experiments/, from which docs/results.md is made.

    python scripts/record_experiment.py runs/mosei/compare.json mosei "CMU-MOSEI, text"

Takes what `mmolre compare`, `ablate`, `sweep` and `explain` (conflict.json), benchmarks/peers/compare.py (peers.json)
and benchmarks/few_labels.py (few-labels.json) wrote: metrics, costs and times, no label and no prediction. The SVG
figure beside it goes to docs/figures/; where there is none, that of an earlier record is removed.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from mmolre.experiments.figures import rows_figure
from mmolre.files import write_text

ROOT = Path(__file__).parent.parent
KINDS = ("compare", "ablate", "sweep-total", "sweep-each", "conflict", "peers", "few-labels")
TITLES = {"compare": "Comparison", "ablate": "Ablation"}
UNWANTED = ("cosines", "steps")
"""Of each step: in the figure."""


def record(source: Path, name: str, title: str, root: Path = ROOT, scored_on: str = "test") -> Path:
    """Write the record; returns its file. ``scored_on``: what split of the corpus the experiment's test split was."""
    if source.stem not in KINDS:
        raise SystemExit(f"{source}: not one of {', '.join(f'{kind}.json' for kind in KINDS)}")
    if scored_on != "test" and source.stem not in TITLES:
        raise SystemExit(f"{source}: --scored-on is for {' and '.join(TITLES)}")
    about = {"title": title} | ({} if scored_on == "test" else {"scored_on": scored_on})
    content = about | _without(json.loads(source.read_text(encoding="utf-8")))
    target = root / "results" / "experiments" / f"{source.stem}-{name}.json"
    write_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    drawn = root / "docs" / "figures" / f"{target.stem}.svg"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    if scored_on != "test":
        with tempfile.TemporaryDirectory() as folder:  # what the run drew says test
            rows_figure(Path(folder) / target.stem, TITLES[source.stem], content)
            shutil.copyfile(Path(folder) / drawn.name, drawn)
    elif (figure := source.with_suffix(".svg")).exists():
        shutil.copyfile(figure, drawn)
    else:
        drawn.unlink(missing_ok=True)  # of other numbers
    return target


def _without(value):
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in UNWANTED}
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("name", help="short; names the file")
    parser.add_argument("title", help="the data, for people")
    parser.add_argument("--scored-on", default="test", help="the corpus' own name of the split that was scored")
    options = parser.parse_args()
    print(record(options.source, options.name, options.title, scored_on=options.scored_on))


if __name__ == "__main__":
    main()
