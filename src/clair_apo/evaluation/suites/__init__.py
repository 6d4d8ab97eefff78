"""The suites: each measures every model of an evaluation, and says what it could not measure."""
