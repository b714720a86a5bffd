"""The three roles as plain classes (decomposer, solver, verifier), and what hosts them: local handles, Ray actors, pools."""
