"""Programs for people, one per `flp` command that is no stage: look, check, film, tidy up."""
