"""Sending work to a Ray cluster. Imports cleave; nothing here runs inside a job."""
