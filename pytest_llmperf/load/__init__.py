"""The load driver: arrivals x prompts x transport -> records. Nothing here knows pytest."""
