"""Stage `report`: what the run did, for people and programs."""
