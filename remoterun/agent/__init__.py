"""What runs on a host: the standard library only, Python 3.8 and later. `shared/` is used by both sides."""
