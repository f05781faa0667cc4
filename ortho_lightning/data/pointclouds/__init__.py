"""Point clouds: procedural shapes, ModelNet, and operations on clouds."""
