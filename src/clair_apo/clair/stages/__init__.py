"""The stages of a run, each a function from a prompt's state to what the stage adds."""
