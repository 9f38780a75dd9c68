"""Makes the files that the points of a plan read, before anything is timed: ONNX exports and what is quantised of them.

``python -m whichbackbone.measure.files`` reads points from the standard input, as a block does. What is there already
costs a look. What cannot be made is left out: the visit that needs it tries again, and its row says why.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from whichbackbone.evidence.speed import Point
from whichbackbone.measure import block, visits
from whichbackbone.measure.runtimes import Subject


def needed(points: Sequence[Point]) -> list[Point]:
    """Those points of which no two read the same file, net by net; fp32 files before those made from them."""
    reading = [p for p in points if p.runtime in visits.FROM_FILES and p.device == "cpu"]
    found = {(p.net, p.pixels, p.batch, p.runtime if p.precision == "int8" else ""): p for p in reading}
    return sorted(found.values(), key=lambda p: (p.net, p.pixels, p.batch, p.precision == "int8"))


def make(points: Sequence[Point]) -> Iterator[tuple[Point, float]]:
    """Each point whose file had to be made, with the seconds that it took."""
    subjects: dict[tuple, Subject] = {}
    for point in needed(points):
        try:
            key = (point.net, point.pixels, point.batch)
            if key not in subjects:
                subjects = {key: block.subject(point)}  # one net at a time: the larger ones fill memory
            subject = subjects[key]
            made = subject.quantised(point.runtime) if point.precision == "int8" else subject.file
        except Exception:  # the row of the point will say it
            continue
        if made.seconds:
            yield point, made.seconds


def main(source: TextIO = sys.stdin, target: TextIO = sys.stdout) -> None:
    """Read ``{"points": [...]}``; write ``{"net": ..., "seconds": ...}`` for each file made."""
    points = [Point(**point) for point in json.load(source)["points"]]
    for point, seconds in make(points):
        print(json.dumps(dict(net=point.net, seconds=seconds)), file=target, flush=True)


if __name__ == "__main__":
    main()
