"""Engines that are deployed in steps: each a holder program that brings one up, holds it and takes it down."""
