"""The account as AWS itself tells it, asked with boto3 and without any code that is checked here."""

from __future__ import annotations

import datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from remoterun.providers.aws.tags import rented_of

NAMED = "remoterun"


class Account:
    """`home`: the mark, in the tags, of the home whose hosts are looked for."""

    def __init__(self, region: str, home: str) -> None:
        self.region = region
        self._home = home
        self._ec2 = boto3.client("ec2", region_name=region)
        self._s3 = boto3.client("s3", region_name=region, config=Config(signature_version="s3v4"))
        self._seen: dict[str, dict[str, Any]] = {}

    def instances(self) -> list[dict[str, Any]]:
        """Those that the check rented, oldest first; those that ended for as long as AWS lists them."""
        answer = self._ec2.describe_instances(Filters=[{"Name": "tag:remoterun:home", "Values": [self._home]}])
        found = [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]
        for instance in found:
            if instance.get("LaunchTime"):
                self._seen[instance["InstanceId"]] = instance
        return sorted(found, key=lambda instance: instance["LaunchTime"])

    def alive(self) -> list[dict[str, Any]]:
        return [each for each in self.instances() if each["State"]["Name"] not in ("terminated", "shutting-down")]

    def unfinished(self) -> list[dict[str, Any]]:
        return [each for each in self.instances() if each["State"]["Name"] != "terminated"]

    def terminate(self) -> None:
        """For when the product does not."""
        ids = [each["InstanceId"] for each in self.alive()]
        if ids:
            self._ec2.terminate_instances(InstanceIds=ids)

    def attribute(self, instance: str, name: str) -> Any:
        answer = self._ec2.describe_instance_attribute(InstanceId=instance, Attribute=name)
        return next(value for key, value in answer.items() if isinstance(value, dict) and "Value" in value)["Value"]

    def disks(self) -> list[dict[str, Any]]:
        filters = [{"Name": "tag:remoterun:home", "Values": [self._home]}]
        found: list[dict[str, Any]] = self._ec2.describe_volumes(Filters=filters)["Volumes"]
        return found

    def groups(self) -> dict[str, list[str]]:
        """The security groups of remoterun, whoever made them: the addresses and ports that each lets in."""
        answer = self._ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [NAMED]}])
        return {
            group["GroupId"]: [
                f"{each['CidrIp']} {rule.get('FromPort')}-{rule.get('ToPort')}"
                for rule in group["IpPermissions"]
                for each in rule["IpRanges"]
            ]
            for group in answer["SecurityGroups"]
        }

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self._s3.list_buckets()["Buckets"]}

    def objects(self, bucket: str) -> list[str]:
        """The keys of all."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def remove_bucket(self, bucket: str) -> None:
        """With all that is in it."""
        keys = self.objects(bucket)
        for start in range(0, len(keys), 1000):
            part = [{"Key": key} for key in keys[start : start + 1000]]
            self._s3.delete_objects(Bucket=bucket, Delete={"Objects": part, "Quiet": True})
        try:
            self._s3.delete_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise

    def cost(self) -> float:
        """US dollars of all hosts that were seen, as far as their prices are known."""
        now = datetime.datetime.now(datetime.UTC).timestamp()
        rented = [rented_of(instance, self.region) for instance in self._seen.values()]
        return sum(each.cost(now) or 0.0 for each in rented if each is not None)
