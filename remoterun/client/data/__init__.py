"""Uploads, the files of runs, and what runs report."""
