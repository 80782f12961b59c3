"""The bucket in S3 and the CDN in front of it: one place where photos lie, with two doors."""
