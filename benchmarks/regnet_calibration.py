"""Is the rank of the design spaces stable? The whole population experiment of notebook 06 with another seed.

    python -m benchmarks.regnet_calibration --seed 1

draws other nets of each space, trains them from other weights, and writes their errors as the table ``calibration`` of
notebook 06's results on this machine, in a run of its own; the notebook shows them beside its own seed 0. What is
finished is kept, so an interrupted run goes on where it stopped. About as long as the notebook's own populations.
"""

import argparse

from whichbackbone.evidence.store import Store
from whichbackbone.experiments import populations


def main() -> None:
    """Run one seed whole and store it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the experiment; the notebook's own is 0")
    parser.add_argument("--workers", type=int, default=None, help="processes; default one a core, 0: this process")
    parser.add_argument("--output", default="", help="folder of the results; default is this repository")
    given = parser.parse_args()
    setting = populations.SETTING
    rows = populations.experiment(given.seed, **setting, folder=f"06_calibration_{given.seed}", workers=given.workers)
    store = Store("06_regnet", "standard", given.output)
    keep = ["space", "seed", "depth", "b", "g", "w_m", "status", "error", "train_error", "macs", "activations"]
    table = rows[[*keep, "seconds"]].assign(setting=" ".join(f"{k}={v:g}" for k, v in setting.items()))
    store.append("calibration", table)
    print(rows.groupby("space", sort=False).error.describe().to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
