"""A checklist for a real AWS account: `python -m tests.cloud_check` (see README.md)."""
