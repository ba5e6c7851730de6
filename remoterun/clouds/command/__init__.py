"""Providers that are programs of the user's: each call is one run of the program."""
