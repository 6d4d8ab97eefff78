"""What makes no pair: texts, lengths, languages and prompts of test sets."""
