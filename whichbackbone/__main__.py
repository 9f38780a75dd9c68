"""``python -m whichbackbone choose --hardware cpu --latency-ms 15``: which backbone, with reasons."""

import argparse
import sys


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        """Print the message, exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    """The command line; its options are the arguments of ``chooser.choose``."""
    main = Parser(prog="python -m whichbackbone", description="Which backbone should I use for my image task?")
    command = main.add_subparsers(dest="command", required=True, metavar="choose").add_parser(
        "choose", help="rank the nets of the study for a task, a device and its limits"
    )
    add = command.add_argument
    add("--task", default="classification", help="classification, transfer, detection, segmentation")
    add("--hardware", default="cpu", help="cpu (measured here), gpu or phone (published)")
    add("--latency-ms", type=float, help="longest time of an image")
    add("--batch", type=int, default=1, help="images at a time")
    add("--memory-mb", type=float, help="most memory of a forward pass")
    add("--params-m", type=float, help="most parameters, in millions")
    add("--from-scratch", dest="pretrained", action="store_false", help="you train it yourself: rank by one recipe")
    add("--runtime", help="eager, channels_last, compile, onnxruntime, openvino; the fastest timed if left out")
    add("--machine", help="whose measurements: a folder of data/results")
    add("--all", action="store_true", help="also list what does not fit")
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, 1 when nothing fits, 2 for a wish that makes no sense."""
    given = vars(parser().parse_args(arguments))
    given.pop("command")
    every = given.pop("all")
    from whichbackbone.evidence import chooser  # torch takes seconds to load: a mistyped option should not wait for it

    try:
        ranked = chooser.choose(**given)
    except (ValueError, FileNotFoundError) as error:
        print(f"python -m whichbackbone: error: {error}", file=sys.stderr)
        return 2
    shown = ranked if every else ranked[ranked.fits]
    columns = ["rank", "name", "size", "top1", "ms", "how", "params_m", "reason"]
    if len(shown):
        shown = shown[columns] if every else shown[columns].head(10)
        print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
        print()
    print(ranked.attrs["advice"])
    return 0 if ranked.fits.any() else 1


if __name__ == "__main__":
    sys.exit(main())
