data "aws_route53_zone" "cdn" {
  name = var.dns_zone_name
}

resource "aws_acm_certificate" "cdn" {
  provider          = aws.us_east_1
  domain_name       = var.cdn_domain_name
  validation_method = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "certificate" {
  for_each = {
    for option in aws_acm_certificate.cdn.domain_validation_options : option.domain_name => option
  }

  zone_id = data.aws_route53_zone.cdn.zone_id
  name    = each.value.resource_record_name
  type    = each.value.resource_record_type
  records = [each.value.resource_record_value]
  ttl     = 300
}

# The distribution waits for this one: it refuses a certificate that is not issued yet.
resource "aws_acm_certificate_validation" "cdn" {
  provider                = aws.us_east_1
  certificate_arn         = aws_acm_certificate.cdn.arn
  validation_record_fqdns = [for record in aws_route53_record.certificate : record.fqdn]
}

resource "aws_route53_record" "cdn" {
  for_each = toset(["A", "AAAA"])

  zone_id = data.aws_route53_zone.cdn.zone_id
  name    = var.cdn_domain_name
  type    = each.key

  alias {
    name                   = aws_cloudfront_distribution.photos.domain_name
    zone_id                = aws_cloudfront_distribution.photos.hosted_zone_id
    evaluate_target_health = false
  }
}
