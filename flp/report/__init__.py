"""The page, from the files that the stages left: `collect` reads, `statistics` computes, `tables` and `charts` show."""
