"""The micro world: a coined world, documents about it, and tasks over it whose answers a program verifies exactly."""
