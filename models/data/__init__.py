"""Data sets: captioned pictures built from openly licensed packages."""
