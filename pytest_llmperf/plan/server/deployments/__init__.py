"""Engines that are deployed in steps, in a plan."""
