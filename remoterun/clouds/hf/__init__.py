"""Hugging Face as a provider: each host is one of its Jobs."""
