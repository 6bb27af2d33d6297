"""What was said around each utterance of a recording (ours).

Neighbours are the recording's other utterances that are in the manifests, of whatever split and labelled or not: their
words alone are taken, never a label.
"""

from collections.abc import Sequence
from dataclasses import replace

from mmolre.schema import Surroundings, Utterance


def surrounded(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances, each with its surroundings where its recording has several with words.

    In a recording their order is by ``start``; one without a start follows the one that stands before it in the
    sequence.
    """
    recordings: dict[str, list[tuple[float, int]]] = {}
    for i, utterance in enumerate(utterances):
        if utterance.recording is not None and utterance.text is not None:
            rows = recordings.setdefault(utterance.recording, [])
            start = utterance.start
            if start is None:
                start = rows[-1][0] if rows else 0.0
            rows.append((start, i))
    done = list(utterances)
    for rows in recordings.values():
        if len(rows) < 2:
            continue
        order = [i for _, i in sorted(rows)]
        texts = tuple(utterances[i].text or "" for i in order)
        for place, i in enumerate(order):
            done[i] = replace(utterances[i], surroundings=Surroundings(texts, place))
    return done
