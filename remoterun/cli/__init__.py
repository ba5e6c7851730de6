"""The command line. Commands parse, call the client once, and render; only `render` prints."""
