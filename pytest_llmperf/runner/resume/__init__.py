"""Points on disk, so that an interrupted session can be continued."""
