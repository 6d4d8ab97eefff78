"""The controlled experiment: prompts, a house style that code can check, and its data sources."""
