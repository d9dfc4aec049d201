"""The stages, each a thin program: one node of the graph, reading and writing the files of `flp.system.layout`."""
