"""Estimates what a run will cost and yield, before it is paid for."""
