"""The model families, each module written by tools/export_models.py from its notebook: never edit them here."""
