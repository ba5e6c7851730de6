"""The S3 server as logins meet it, and schedules: what the tests of roles and guards stand on."""

from __future__ import annotations

import datetime
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.cloud.doors import client, refused
from tests.cloud.images import IMAGES
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

pytestmark = pytest.mark.lab

MAY_BE_ASSUMED = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": ["ec2.amazonaws.com", "scheduler.amazonaws.com"]},
        }
    ],
}
MAY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "ec2:TerminateInstances",
            "Resource": "*",
            "Condition": {"Null": {"aws:ResourceTag/remoterun:token": "false"}},
        },
    ],
}


def posted(form: dict[str, Any], key: str) -> str:
    """The code of the answer to a form: "204", or that of its error."""
    fields = {**form["fields"], "key": key}
    parts = [f'--end\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{fields[name]}\r\n' for name in fields]
    parts.append('--end\r\nContent-Disposition: form-data; name="file"\r\n\r\ndata\r\n--end--\r\n')
    headers = {"Content-Type": "multipart/form-data; boundary=end"}
    try:
        with urllib.request.urlopen(urllib.request.Request(form["url"], "".join(parts).encode(), headers)) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return error.read().decode().partition("<Code>")[2].partition("<")[0]


def test_the_store_knows_logins_that_end(cloud: Cloud) -> None:
    cloud.s3.ready()
    owner, login = client(cloud, "s3", cloud.user), cloud.login(3600)
    s3 = client(cloud, "s3", login)
    owner.create_bucket(Bucket="store")
    assert refused(owner.list_objects_v2, Bucket="store", ExpectedBucketOwner="999999999999") in ("403", "AccessDenied")
    s3.put_object(Bucket="store", Key="a/ä b+c~", Body=b"x" * 3_000_000, ExpectedBucketOwner=cloud.account)
    assert len(s3.get_object(Bucket="store", Key="a/ä b+c~")["Body"].read()) == 3_000_000
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="store", Prefix="a/ä b+")["Contents"]] == ["a/ä b+c~"]
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "store", "Key": "a/ä b+c~"})
    with urllib.request.urlopen(url) as answer:
        assert len(answer.read()) == 3_000_000
    form = s3.generate_presigned_post("store", "runs/${filename}", Conditions=[["starts-with", "$key", "runs/"]])
    assert posted(form, "runs/1") == "204" and posted(form, "other/1") == "AccessDenied"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"))
    cloud.expire(login)
    assert refused(s3.put_object, Bucket="store", Key="a", Body=b"x") == "ExpiredToken"
    assert posted(form, "runs/1") == "ExpiredToken"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url)
    key = cloud.new_key()
    other = client(cloud, "s3", key)
    form = other.generate_presigned_post("store", "runs/${filename}", Conditions=[["starts-with", "$key", "runs/"]])
    other.put_object(Bucket="store", Key="a", Body=b"x")
    del cloud.credentials[key.key]
    assert (
        refused(other.put_object, Bucket="store", Key="a", Body=b"x") == posted(form, "runs/1") == "InvalidAccessKeyId"
    )


def test_a_schedule_really_ends_a_machine_where_its_role_may(cloud: Cloud) -> None:
    """The rights of a machine by its role are tried in test_roles, with the roles of remoterun."""
    iam, ec2, scheduler = (client(cloud, name, cloud.user) for name in ("iam", "ec2", "scheduler"))
    launch: dict[str, Any] = {
        "ImageId": IMAGES[1].id_in("us-east-1"),
        "InstanceType": "c7i.large",
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": "once",
        "UserData": "#cloud-config\n{}\n",
        "IamInstanceProfile": {"Name": "host"},
    }
    role = iam.create_role(RoleName="host", AssumeRolePolicyDocument=json.dumps(MAY_BE_ASSUMED))["Role"]
    iam.put_role_policy(RoleName="host", PolicyName="may", PolicyDocument=json.dumps(MAY))
    iam.create_instance_profile(InstanceProfileName="host")
    iam.add_role_to_instance_profile(InstanceProfileName="host", RoleName="host")
    (name,) = [each["InstanceId"] for _ in range(2) for each in ec2.run_instances(**launch)["Instances"]][:1]
    (machine,) = cloud.machines.values()
    until(lambda: machine.state == "running", 60, "it runs")
    login = cloud.login_of(machine)
    assert login is not None and login == cloud.login_of(machine)
    assert refused(client(cloud, "ec2", login).describe_instances) == "UnauthorizedOperation"
    # a schedule is only made for a role that the scheduler may assume, and only does what that role may
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances", "RoleArn": role["Arn"] + "none"}
    target["Input"] = json.dumps({"InstanceIds": [name]})
    when = datetime.datetime.now(datetime.UTC).strftime("at(%Y-%m-%dT%H:%M:%S)")
    schedule: dict[str, Any] = {"FlexibleTimeWindow": {"Mode": "OFF"}, "ActionAfterCompletion": "DELETE"}
    assert (
        refused(scheduler.create_schedule, Name="s", ScheduleExpression=when, Target=target, **schedule)
        == "ValidationException"
    )
    target["RoleArn"] = role["Arn"]
    scheduler.create_schedule(Name="early", ScheduleExpression=when, Target=target, **schedule)
    until(lambda: "schedule early" not in cloud.left_behind(), 30, "the schedule is done")
    assert machine.state == "running", "it has no tag"
    ec2.create_tags(Resources=[name], Tags=[{"Key": "remoterun:token", "Value": "rr-1"}])
    scheduler.create_schedule(Name="late", ScheduleExpression="at(2999-01-01T00:00:00)", Target=target, **schedule)
    scheduler.create_schedule(Name="now", ScheduleExpression=when, Target=target, **schedule)
    until(lambda: machine.state == "terminated", 60, "the schedule ends it")
    assert "schedule late" in cloud.left_behind() and "schedule now" not in cloud.left_behind()
    scheduler.delete_schedule(Name="late")
    assert cloud.calls[-1].action == "DeleteSchedule"
    assert cloud.left_behind() == [] and cloud.roles_made() == ["profile host", "role host"]
