"""A home in an S3 bucket: the requests of AgentAPI that need no machine, answered by this very process.

host.py, pipe.py   a bucket as a host like any other: the other end of its pipe is a thread here
serving.py         requests → handlers; blobs.py, uploads.py, runs.py, upkeep.py are theirs, by noun
contents.py        where each content lies; incoming.py and outgoing.py bring them in and out
grants.py          what a host without credentials may fetch and write
creation.py        the bucket is made, and examined
s3.py              the room of boto3 (creation.py asks by it); place.py: which bucket is meant
"""
