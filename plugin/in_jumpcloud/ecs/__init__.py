"""Raw events become records of the Elastic Common Schema."""
