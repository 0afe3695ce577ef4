"""The programs perdure is compared with, each doing the counter's work in its own way."""
