"""How much work an experiment does: ``smoke`` proves that it runs, ``standard`` is published, ``full`` adds seeds.

A notebook states its own three settings where the reader sees them, and takes one::

    work = profiles.choose(
        profile,
        smoke=dict(seeds=1, epochs=1),
        standard=dict(seeds=3, epochs=5),
        full=dict(seeds=10, epochs=10),
    )
    for seed in range(work.seeds): ...
"""

from types import SimpleNamespace
from typing import Any

NAMES = ("smoke", "standard", "full")


def validate(profile: str) -> str:
    """Return ``profile`` if it is one of the three, else raise a ``ValueError`` that names them."""
    if profile not in NAMES:
        raise ValueError(f"unknown profile {profile!r}: choose one of {', '.join(NAMES)}")
    return profile


def choose(profile: str, *, smoke: dict[str, Any], standard: dict[str, Any], full: dict[str, Any]) -> SimpleNamespace:
    """Return the settings of ``profile`` as attributes.

    Raises ``ValueError`` for an unknown profile, and where a profile lacks a setting that another one has: it would
    fail only for those who run that profile.
    """
    settings = {"smoke": smoke, "standard": standard, "full": full}
    every = set().union(*settings.values())
    for name, values in settings.items():
        if missing := sorted(every - set(values)):
            raise ValueError(f"profile {name!r} lacks {', '.join(missing)}")
    return SimpleNamespace(**settings[validate(profile)])
