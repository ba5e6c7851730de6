"""The upkeep of machines and their homes."""
