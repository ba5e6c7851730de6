"""What is handed on to others, as plain files."""
