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

# All of them work at 10,000 photos a month, which are some 40 requests in an hour of the day: shares are taken of
# hours and days, and only of those in which enough was asked to tell a trouble from a single odd answer. A job is
# not harmed by any: consumers read from S3 meanwhile.

# The goal is 70 % of what people look at. A raw photo is read once, by the consumer, and is a miss: such reads are
# left out, for what people look at are the runs of the function of public photos.
resource "aws_cloudwatch_metric_alarm" "hit_ratio" {
  provider            = aws.us_east_1
  alarm_name          = "${var.name}-cdn-hit-ratio"
  alarm_description   = "Fewer than 70 % of the public photos came from the edge in a day."
  comparison_operator = "LessThanThreshold"
  threshold           = 70
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "display_hit_ratio"
    label       = "Hits of public photos, percent"
    expression  = "IF(display_reads >= 100, hit_rate * requests / display_reads, 100)"
    return_data = true
  }

  metric_query {
    id = "hit_rate"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "CacheHitRate"
      stat        = "Average"
      period      = 86400
      dimensions  = { DistributionId = aws_cloudfront_distribution.photos.id, Region = "Global" }
    }
  }

  metric_query {
    id = "requests"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "Requests"
      stat        = "Sum"
      period      = 86400
      dimensions  = { DistributionId = aws_cloudfront_distribution.photos.id, Region = "Global" }
    }
  }

  metric_query {
    id = "display_reads"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "FunctionInvocations"
      stat        = "Sum"
      period      = 86400
      dimensions  = { FunctionName = aws_cloudfront_function.public_photo.name, Region = "Global" }
    }
  }
}

# A share of errors above `percent` in an hour, and `at_least` so many.
resource "aws_cloudwatch_metric_alarm" "errors" {
  for_each = {
    "4xx" = { percent = 20, at_least = 10, means = "a wrong reader's secret, or someone guesses" }
    "5xx" = { percent = 1, at_least = 3, means = "no job is harmed, for consumers read from S3 meanwhile" }
  }

  provider            = aws.us_east_1
  alarm_name          = "${var.name}-cdn-${each.key}"
  alarm_description   = "More than ${each.value.percent} % of the CDN's answers in an hour, ${each.value.at_least} at least, were ${each.key}: ${each.value.means}."
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.percent
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "share"
    label       = "Answers ${each.key}, percent"
    expression  = "IF(error_rate * requests / 100 >= ${each.value.at_least}, error_rate, 0)"
    return_data = true
  }

  metric_query {
    id = "error_rate"

    metric {
      namespace   = "AWS/CloudFront"
      metric_name = "${each.key}ErrorRate"
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
}

# The bill of CloudFront and S3, told by AWS itself: before the month is over if it will be more, and when it is.
resource "aws_budgets_budget" "photos" {
  name         = "${var.name}-photos"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.monthly_cost_limit_usd)
  limit_unit   = "USD"

  cost_filter {
    name   = "Service"
    values = ["Amazon CloudFront", "Amazon Simple Storage Service"]
  }

  notification {
    notification_type          = "FORECASTED"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 100
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = [var.alarm_email]
  }

  notification {
    notification_type          = "ACTUAL"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 80
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = [var.alarm_email]
  }
}
