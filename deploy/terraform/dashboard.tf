# What the CDN did, for whoever looks in AWS. How long reads from the CDN and from S3 take is measured where people
# wait for them: growbin_photo_fetch_seconds, by source, on growbin's own dashboard.
locals {
  cdn      = ["DistributionId", aws_cloudfront_distribution.photos.id, "Region", "Global"]
  raw      = ["FunctionName", aws_cloudfront_function.incoming_photo.name, "Region", "Global"]
  display  = ["FunctionName", aws_cloudfront_function.public_photo.name, "Region", "Global"]
  in_store = ["BucketName", aws_s3_bucket.photos.bucket, "StorageType"]

  widgets = [
    {
      title  = "Requests an hour"
      period = 3600
      stat   = "Sum"
      metrics = [
        concat(["AWS/CloudFront", "Requests"], local.cdn, [{ label = "all" }]),
        concat(["AWS/CloudFront", "FunctionInvocations"], local.display, [{ label = "photos that people look at" }]),
        concat(["AWS/CloudFront", "FunctionInvocations"], local.raw, [{ label = "raw photos, for the consumers" }]),
      ]
    },
    {
      title   = "Bytes an hour"
      period  = 3600
      stat    = "Sum"
      metrics = [concat(["AWS/CloudFront", "BytesDownloaded"], local.cdn, [{ label = "from the edge" }])]
    },
    {
      title  = "Hits of what people look at, percent of a day (goal: 70)"
      period = 86400
      stat   = "Sum"
      metrics = [
        concat(["AWS/CloudFront", "CacheHitRate"], local.cdn, [{ id = "hit_rate", stat = "Average", visible = false }]),
        concat(["AWS/CloudFront", "Requests"], local.cdn, [{ id = "requests", visible = false }]),
        concat(["AWS/CloudFront", "FunctionInvocations"], local.display, [{ id = "display_reads", visible = false }]),
        [{ expression = "hit_rate * requests / display_reads", label = "hits" }],
      ]
    },
    {
      title  = "Errors, percent of an hour's answers"
      period = 3600
      stat   = "Average"
      metrics = [
        concat(["AWS/CloudFront", "4xxErrorRate"], local.cdn, [{ label = "4xx" }]),
        concat(["AWS/CloudFront", "5xxErrorRate"], local.cdn, [{ label = "5xx" }]),
      ]
    },
    {
      title  = "Errors of the edge's functions"
      period = 3600
      stat   = "Sum"
      metrics = [
        concat(["AWS/CloudFront", "FunctionExecutionErrors"], local.display, [{ label = "public photos" }]),
        concat(["AWS/CloudFront", "FunctionExecutionErrors"], local.raw, [{ label = "raw photos" }]),
      ]
    },
    {
      title  = "In the bucket (once a day)"
      period = 86400
      stat   = "Average"
      region = var.aws_region
      metrics = [
        concat(["AWS/S3", "NumberOfObjects"], local.in_store, ["AllStorageTypes", { label = "photos" }]),
        concat(["AWS/S3", "BucketSizeBytes"], local.in_store, ["StandardStorage", { label = "bytes", yAxis = "right" }]),
      ]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "photos" {
  provider       = aws.us_east_1
  dashboard_name = "${var.name}-photos"
  dashboard_body = jsonencode({
    widgets = [
      for place, widget in local.widgets : {
        type       = "metric"
        x          = place % 2 * 12
        y          = floor(place / 2) * 6
        width      = 12
        height     = 6
        properties = merge({ region = "us-east-1", view = "timeSeries" }, widget)
      }
    ]
  })
}
