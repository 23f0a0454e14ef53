"""Ground truth: the tasks in PyBullet behind Gymnasium's interface. `envs.registry.make` is the way in."""
