"""The Ray Serve application: one URL in front of the three roles. Start with serve/app.py; `cleave serve` is serve/run.py."""
