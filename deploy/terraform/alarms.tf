# All in us-east-1: CloudFront's metrics and the bill are there only.
resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:An alarm says a name and a number. CloudWatch can write to an encrypted topic only with a key that costs more than all alarms.
  provider = aws.us_east_1
  name     = "${var.name}-alarms"
}

resource "aws_sns_topic_subscription" "email" {
  provider  = aws.us_east_1
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

# The hit rate is one of the additional metrics.
resource "aws_cloudfront_monitoring_subscription" "photos" {
  distribution_id = aws_cloudfront_distribution.photos.id

  monitoring_subscription {
    realtime_metrics_subscription_config {
      realtime_metrics_subscription_status = "Enabled"
    }
  }
}

# The goal is 70 % of what people look at. A raw photo is read once, by the consumer, and is a miss: such reads are
# those that ran the function of incoming/, and are taken out of the count. A quiet hour says nothing.
resource "aws_cloudwatch_metric_alarm" "hit_ratio" {
  provider            = aws.us_east_1
  alarm_name          = "${var.name}-cdn-hit-ratio"
  alarm_description   = "Fewer than 70 % of the public photos came from the edge for three hours."
  comparison_operator = "LessThanThreshold"
  threshold           = 70
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "display_hit_ratio"
    label       = "Hits of public photos, percent"
    expression  = "IF(requests - FILL(raw_reads, 0) > 100, hit_rate * requests / (requests - FILL(raw_reads, 0)), 100)"
    return_data = true
  }

  metric_query {
    id = "hit_rate"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "CacheHitRate"
      stat        = "Average"
      period      = 3600
      dimensions  = { DistributionId = aws_cloudfront_distribution.photos.id, Region = "Global" }
    }
  }

  metric_query {
    id = "requests"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "Requests"
      stat        = "Sum"
      period      = 3600
      dimensions  = { DistributionId = aws_cloudfront_distribution.photos.id, Region = "Global" }
    }
  }

  metric_query {
    id = "raw_reads"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "FunctionInvocations"
      stat        = "Sum"
      period      = 3600
      dimensions  = { FunctionName = aws_cloudfront_function.incoming_photo.name, Region = "Global" }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "client_errors" {
  provider            = aws.us_east_1
  alarm_name          = "${var.name}-cdn-4xx"
  alarm_description   = "More than 20 % of the CDN's answers were 4xx for 15 minutes: a wrong reader's secret, or someone guesses."
  namespace           = "AWS/CloudFront"
  metric_name         = "4xxErrorRate"
  statistic           = "Average"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 20
  treat_missing_data  = "notBreaching"
  dimensions          = { DistributionId = aws_cloudfront_distribution.photos.id, Region = "Global" }
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

resource "aws_cloudwatch_metric_alarm" "server_errors" {
  provider            = aws.us_east_1
  alarm_name          = "${var.name}-cdn-5xx"
  alarm_description   = "More than 1 % of the CDN's answers were 5xx for 15 minutes; consumers read from S3 meanwhile."
  namespace           = "AWS/CloudFront"
  metric_name         = "5xxErrorRate"
  statistic           = "Average"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  dimensions          = { DistributionId = aws_cloudfront_distribution.photos.id, Region = "Global" }
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

# The bill is counted from the first of the month, a few times a day, and only where billing alerts are turned on.
resource "aws_cloudwatch_metric_alarm" "monthly_cost" {
  provider            = aws.us_east_1
  alarm_name          = "${var.name}-monthly-cost"
  alarm_description   = "CloudFront and S3 of this account have cost more than ${var.monthly_cost_limit_usd} USD this month."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.monthly_cost_limit_usd
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "cost"
    label       = "CloudFront and S3, USD"
    expression  = "cloudfront + s3"
    return_data = true
  }

  metric_query {
    id = "cloudfront"

    metric {
      namespace   = "AWS/Billing"
      metric_name = "EstimatedCharges"
      stat        = "Maximum"
      period      = 21600
      dimensions  = { ServiceName = "AmazonCloudFront", Currency = "USD" }
    }
  }

  metric_query {
    id = "s3"

    metric {
      namespace   = "AWS/Billing"
      metric_name = "EstimatedCharges"
      stat        = "Maximum"
      period      = 21600
      dimensions  = { ServiceName = "AmazonS3", Currency = "USD" }
    }
  }
}
