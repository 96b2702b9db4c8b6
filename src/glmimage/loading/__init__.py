"""Checkpoint folders: found or downloaded, checked, loaded part by part; and a toy one, written."""
