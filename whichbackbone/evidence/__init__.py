"""Judge it: measurements and published figures, intervals, verdicts. Needs no torch, no runtime and no plotting."""
