"""``python -m whichbackbone``: ``choose`` a backbone, ``measure`` the nets on this machine, ``tidy`` old runs away."""

import argparse
import sys
from pathlib import Path

KEEP = {"visits": 3}  # runs of a table that stay when a machine's results are tidied; of any other table one


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        """Print the message, exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    """The command line; the options of ``choose`` are the arguments of ``chooser.choose``."""
    main = Parser(prog="python -m whichbackbone", description="Which backbone should I use for my image task?")
    commands = main.add_subparsers(dest="command", required=True, metavar="choose|measure|tidy")
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
    add("--threads", type=int, default=0, help="that the runtime may use; all cores if left out")
    add("--precision", default="fp32", help="fp32, int8, bf16, fp16, amp")
    add("--machine", help="whose measurements: a folder of data/results")
    add("--all", action="store_true", help="also list what does not fit")
    timed = commands.add_parser("measure", help="time the nets on this machine, the most telling points first")
    add = timed.add_argument
    add("--nets", type=_words, default=(), help="names with commas between; the whole plan of the study if left out")
    add("--runtimes", type=_words, help="eager, channels_last, onnxruntime, openvino, compile; the first four")
    add("--precision", type=_words, default=("fp32",), help="such as fp32,int8; also bf16, fp16, amp")
    add("--batch", type=_numbers, default=(1,), help="images a call, such as 1,8")
    add("--threads", type=_numbers, default=(0,), help="such as 1,2; all cores if left out")
    add("--device", default="cpu", help="cpu, cuda, mps")
    add("--minutes", type=float, help="stop after them; what was measured is kept")
    add("--again", action="store_true", help="begin a new run, also where an interrupted one could go on")
    add("--output", default="", metavar="DIR", help="keep the results there instead of in data/results")
    old = commands.add_parser("tidy", help="remove older runs of this machine; git's history has what was committed")
    old.add_argument("--machine", help="another folder of data/results")
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, 1 when nothing fits, 2 for a wish that makes no sense."""
    given = vars(parser().parse_args(arguments))
    command = {"choose": choose, "measure": measure, "tidy": tidy}[given.pop("command")]
    try:
        return command(**given)
    except (ValueError, LookupError, FileNotFoundError, RuntimeError) as error:
        print(f"python -m whichbackbone: error: {error.args[0] if error.args else error}", file=sys.stderr)
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


def measure(
    nets: tuple[str, ...], runtimes: tuple[str, ...] | None, precision: tuple[str, ...], batch: tuple[int, ...],
    threads: tuple[int, ...], device: str, minutes: float | None, again: bool, output: str,
) -> int:  # fmt: skip
    """Make the visits, then say what was measured and which verdicts it changed."""
    from whichbackbone import folders
    from whichbackbone.measure import plan, visits

    usual = plan.RUNTIMES if device == "cpu" else ("eager", "channels_last", "compile")
    whole = not nets and (runtimes, precision, batch, threads, device) == (None, ("fp32",), (1,), (0,), "cpu")
    groups = plan.core() if whole else visits.plan_of(
        nets or plan.CORE, runtimes or usual, precision, batch, threads, device)  # fmt: skip
    before = _verdicts(output)
    try:
        with folders.claimed(Path(output) if output else folders.REPOSITORY / "build" / "standard"):
            done = visits.run(groups, output=output, minutes=minutes, again=again)
    except KeyboardInterrupt:
        print("\ninterrupted: the blocks measured so far are kept, and the same command goes on there")
        return 130
    except OSError as problem:
        raise RuntimeError(f"cannot write {problem.filename}: {problem.strerror}; free it, or use --output") from None
    for point, reason in done.refused.items():
        print(f"not timed: {point.label} in {point.runtime}, batch {point.batch}: {reason}")
    print(f"{done.timed} points timed in run {done.run}" + ("" if done.complete else ", which is not complete yet: "
          "the same command goes on with it"))  # fmt: skip
    after = _verdicts(output)
    changed = {id: word for id, word in after.items() if before.get(id) != word}
    print(
        "\n".join(f"verdict of {id}: {before.get(id, 'none')} -> {word}" for id, word in changed.items())
        or "no verdict of the ledger changed"
    )
    return 0


def _verdicts(output: str) -> dict[str, str]:
    """The ledger's verdict on each claim."""
    from whichbackbone.evidence import claims

    rows = claims.verdicts(output=output)
    return dict(zip(rows.id, rows.verdict, strict=True))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def tidy(machine: str | None) -> int:
    """Remove older runs from data/results and say how many."""
    from whichbackbone.evidence import claims, store
    from whichbackbone.evidence import machine as this

    whose = machine or this.slug()
    if whose not in store.machines():
        raise ValueError(f"no results of a machine {whose!r}: there are {', '.join(store.machines()) or 'none'}")
    removed = store.tidy(whose, keep=KEEP, decisive=claims.decisive())
    print(f"{len(removed)} older files of {whose} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
