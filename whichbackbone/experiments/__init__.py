"""Try it: data, training, sweeps, populations, search, transfer."""
