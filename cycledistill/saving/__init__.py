"""Writing files and folders that appear whole or not at all, and model cards."""
