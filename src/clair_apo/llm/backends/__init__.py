"""Who answers a request: a server, a batch service, a model in this process, a script."""
