"""Models: the registry of those that have a name, and loading one with every check that its numbers can be trusted."""
