"""Every config model of Cleave. Imports neither torch nor Ray, so that a wrong config is reported at once."""
