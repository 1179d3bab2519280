"""Random faults thrown at a whole run, and the five laws that hold whatever befalls it."""
