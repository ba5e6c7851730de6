"""A home in an S3 bucket: the requests of AgentAPI that need no machine, answered by this very process."""
