"""What code alone can say of an answer: rules, repetition, refusals, language; loads no model."""
