"""Rows of other people's data, made prompts, answers and pairs."""
