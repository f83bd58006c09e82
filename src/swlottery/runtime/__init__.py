"""How a run lives on a machine: its folder, its tables, its checkpoints, its environment."""
