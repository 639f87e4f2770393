"""Commands that take a plan and measure its servers without pytest: search, calibrate."""
