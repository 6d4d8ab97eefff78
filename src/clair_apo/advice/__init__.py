"""Says which anchor fits: compares a model's answers with those of its pairs by a judge."""
