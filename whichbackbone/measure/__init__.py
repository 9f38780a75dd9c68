"""Price it: what a net costs on paper, and what it takes in time and memory on this machine."""
