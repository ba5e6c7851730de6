"""Runs, from the words of a user to their ends."""
