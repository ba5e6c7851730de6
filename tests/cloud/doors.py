"""Clients of AWS's services, with whatever credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud, Credentials


def client(cloud: Cloud, service: str, login: Credentials) -> Any:
    url = cloud.door.url if service == "s3" else cloud.url
    settings = Config(signature_version="s3v4" if service == "s3" else "v4", retries={"total_max_attempts": 1})
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=login.key,
        aws_secret_access_key=login.secret,
        aws_session_token=login.session,
        config=settings,
    )


def refused(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return str(caught.value.response["Error"]["Code"])
