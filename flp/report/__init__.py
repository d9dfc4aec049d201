"""The page, made from the stages' files: `collect` reads them, `statistics` computes, `tables` and `charts` show."""
