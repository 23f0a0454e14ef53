"""One file a task: demonstrators, and oracles that know the physics."""
