"""When trainer and servers work and when they wait: a simulation of the modes of `rollout.mode`, event by event."""
