"""``python -m whichbackbone choose --latency-ms 15``: which backbone, with reasons; ``tidy``: remove old runs."""

import argparse
import sys

KEEP = {"speed": 3}  # runs of a table that stay when a machine's results are tidied; of any other table one


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        """Print the message, exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    """The command line; the options of ``choose`` are the arguments of ``chooser.choose``."""
    main = Parser(prog="python -m whichbackbone", description="Which backbone should I use for my image task?")
    commands = main.add_subparsers(dest="command", required=True, metavar="choose|tidy")
    command = commands.add_parser("choose", help="rank the nets of the study for a task, a device and its limits")
    add = command.add_argument
    add("--task", default="classification", help="classification, transfer, detection, segmentation")
    add("--hardware", default="cpu", help="cpu (measured), gpu or phone (published)")
    add("--latency-ms", type=float, help="longest time of an image")
    add("--batch", type=int, default=1, help="images at a time")
    add("--memory-mb", type=float, help="most memory of a forward pass")
    add("--params-m", type=float, help="most parameters, in millions")
    add("--from-scratch", dest="pretrained", action="store_false", help="you train it yourself: rank by one recipe")
    add("--runtime", help="eager, channels_last, compile, onnxruntime, openvino; the fastest timed if left out")
    add("--machine", help="whose measurements: a folder of data/results")
    add("--all", action="store_true", help="also list what does not fit")
    old = commands.add_parser("tidy", help="remove older runs of this machine; git's history has what was committed")
    old.add_argument("--machine", help="another folder of data/results")
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, 1 when nothing fits, 2 for a wish that makes no sense."""
    given = vars(parser().parse_args(arguments))
    command = {"choose": choose, "tidy": tidy}[given.pop("command")]
    try:
        return command(**given)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"python -m whichbackbone: error: {error}", file=sys.stderr)
        return 2


def choose(all: bool, **wish: object) -> int:
    """Print the ranking and the advice."""
    from whichbackbone.evidence import chooser  # pandas takes a moment: a mistyped option should not wait for it

    ranked = chooser.choose(**wish)
    shown = ranked if all else ranked[ranked.fits]
    columns = ["rank", "name", "size", "top1", "ms", "how", "params_m", "reason"]
    if len(shown):
        shown = shown[columns] if all else shown[columns].head(10)
        print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
        print()
    print(ranked.attrs["advice"])
    return 0 if ranked.fits.any() else 1


def tidy(machine: str | None) -> int:
    """Remove older runs from data/results and say how many."""
    from whichbackbone.evidence import machine as this
    from whichbackbone.evidence import store

    whose = machine or this.slug()
    if whose not in store.machines():
        raise ValueError(f"no results of a machine {whose!r}: there are {', '.join(store.machines()) or 'none'}")
    removed = store.tidy(whose, keep=KEEP)
    print(f"{len(removed)} older files of {whose} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
