"""The rules of the local bucket, as the cloud's are set by Terraform. Where SeaweedFS is not our child
(in a cluster, in compose), `python -m growbin.local.bucket` sets them."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import TYPE_CHECKING

import aioboto3
from aiobotocore.config import AioConfig

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

WAIT_SECONDS = 120
PAUSE_SECONDS = 1

CONFIG = AioConfig(
    signature_version="s3v4",
    s3={"addressing_style": "path"},
    request_checksum_calculation="when_required",
    proxies={},
    retries={"total_max_attempts": 1},
)


async def furnish(s3: S3Client, bucket: str, referer: str) -> None:
    """Set the bucket's rules; repeating it changes nothing. Who sends `referer` may read."""
    await s3.put_bucket_cors(
        Bucket=bucket,
        CORSConfiguration={
            "CORSRules": [
                {
                    "AllowedOrigins": ["*"],
                    "AllowedMethods": ["PUT", "GET", "HEAD"],
                    "AllowedHeaders": ["*"],
                    "ExposeHeaders": ["ETag"],
                }
            ]
        },
    )
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadThroughTheCdn",
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{bucket}/*",
                "Condition": {"StringEquals": {"aws:Referer": referer}},
            }
        ],
    }
    await s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    await s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": "incoming/"},
                    "Expiration": {"Days": 1},
                },
                {
                    "ID": "photos",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "Expiration": {"Days": 7},
                },
            ]
        },
    )


async def _furnish_when_there(referer: str) -> None:
    """The bucket that growbin's own variables name; waits for a store that is still starting."""
    session = aioboto3.Session(region_name=os.environ["AWS_REGION"])
    endpoint = os.environ["S3_ENDPOINT_URL"]
    async with (
        asyncio.timeout(WAIT_SECONDS),
        session.client("s3", endpoint_url=endpoint, config=CONFIG) as s3,
    ):
        while True:
            try:
                return await furnish(s3, os.environ["S3_BUCKET_NAME"], referer)
            except Exception as error:  # noqa: BLE001  # whatever it is, a later try may do
                print(f"not yet: {error}", flush=True)
            await asyncio.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--referer", required=True, help="the header value that only the CDN knows")
    asyncio.run(_furnish_when_there(arguments.parse_args().referer))
