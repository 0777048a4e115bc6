"""The command line, one file per verb: what it takes (`add_arguments`) and what it does (`run`)."""
