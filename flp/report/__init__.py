"""The report: tables, figures and one self-contained page, from what the other stages left on disk.

`collect` reads, `statistics` computes, `tables` and `figures` show, `page` puts together.
"""
