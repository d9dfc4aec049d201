"""The six stages, each a program that reads and writes the files of `flp.layout`."""
