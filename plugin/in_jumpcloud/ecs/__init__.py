"""Map raw events to records of the Elastic Common Schema (ECS)."""
