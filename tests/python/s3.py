"""What the tests do with an S3 server beside our own client.

s3.py bucket NAME | upload FOLDER BUCKET PREFIX | download BUCKET PREFIX FOLDER
"""

import os
import pathlib
import sys

import boto3

client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")


def bucket(name):
    client.create_bucket(Bucket=name)


def upload(folder, name, prefix):
    root = pathlib.Path(folder)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), name, f"{prefix}/{path.relative_to(root)}")


def download(name, prefix, folder):
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=f"{prefix}/"):
        for entry in page.get("Contents", []):
            target = pathlib.Path(folder) / entry["Key"][len(prefix) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(name, entry["Key"], str(target))


{"bucket": bucket, "upload": upload, "download": download}[sys.argv[1]](*sys.argv[2:])
