"""Hosts of Amazon's EC2, in the user's own account. boto3 is imported with the first call."""
