"""Questions to Hugging Face itself: `python -m tests.hf_check` (see README.md)."""
