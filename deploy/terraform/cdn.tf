# Read-only, in front of the private bucket. Public copies are for everyone, incoming/ for the consumer only.
resource "aws_cloudfront_distribution" "photos" {
  #checkov:skip=CKV_AWS_68:Reads of names that cannot be guessed, by GET and HEAD: a firewall would have nothing to decide.
  #checkov:skip=CKV_AWS_86:Logs would hold people's addresses beside job ids; the metrics below need none.
  #checkov:skip=CKV_AWS_305:There is no page to show; the function refuses "/".
  #checkov:skip=CKV_AWS_310:The consumer itself falls back to S3 when the CDN fails.
  #checkov:skip=CKV_AWS_374:A photo may be looked at from wherever its owner travels.
  #checkov:skip=CKV2_AWS_47:The same as for the firewall; no log4j stands behind a bucket.
  comment         = "${var.name} photos"
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = "PriceClass_200"
  aliases         = [var.cdn_domain_name]

  origin {
    origin_id                = "bucket"
    domain_name              = aws_s3_bucket.photos.bucket_regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.photos.id
  }

  default_cache_behavior {
    target_origin_id           = "bucket"
    allowed_methods            = ["GET", "HEAD"]
    cached_methods             = ["GET", "HEAD"]
    viewer_protocol_policy     = "redirect-to-https"
    cache_policy_id            = aws_cloudfront_cache_policy.public_photos.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.photos.id
    trusted_key_groups         = aws_cloudfront_key_group.image_url[*].id

    function_association {
      event_type   = "viewer-request"
      function_arn = aws_cloudfront_function.public_photo.arn
    }
  }

  ordered_cache_behavior {
    path_pattern               = "incoming/*"
    target_origin_id           = "bucket"
    allowed_methods            = ["GET", "HEAD"]
    cached_methods             = ["GET", "HEAD"]
    viewer_protocol_policy     = "redirect-to-https"
    cache_policy_id            = aws_cloudfront_cache_policy.raw_photos.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.photos.id

    function_association {
      event_type   = "viewer-request"
      function_arn = aws_cloudfront_function.incoming_photo.arn
    }
  }

  # 403 is what S3 says of a missing object to who may not list. A page may ask for a photo a moment too early.
  custom_error_response {
    error_code            = 403
    error_caching_min_ttl = 1
  }

  custom_error_response {
    error_code            = 404
    error_caching_min_ttl = 1
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    acm_certificate_arn      = aws_acm_certificate_validation.cdn.certificate_arn
    ssl_support_method       = "sni-only"
    minimum_protocol_version = "TLSv1.2_2021"
  }
}

resource "aws_cloudfront_origin_access_control" "photos" {
  name                              = "${var.name}-photos"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

# No header, cookie or query reaches the key or the bucket: the reader's secret ends at the edge.
resource "aws_cloudfront_cache_policy" "public_photos" {
  name        = "${var.name}-public-photos"
  min_ttl     = 0
  default_ttl = 86400
  max_ttl     = 604800

  parameters_in_cache_key_and_forwarded_to_origin {
    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

# Long enough for all attempts of a job. Not longer: who uploads may set any Cache-Control, and a raw photo is not
# to lie at the edge when it has gone from the bucket.
resource "aws_cloudfront_cache_policy" "raw_photos" {
  name        = "${var.name}-raw-photos"
  min_ttl     = 0
  default_ttl = 300
  max_ttl     = 300

  parameters_in_cache_key_and_forwarded_to_origin {
    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

# Whatever was uploaded, a browser shows it as the picture it claims to be, or not at all.
resource "aws_cloudfront_response_headers_policy" "photos" {
  #checkov:skip=CKV_AWS_259:Preloading is for whole domains; this is one name in somebody's zone.
  name = "${var.name}-photos"

  security_headers_config {
    content_type_options {
      override = true
    }

    content_security_policy {
      content_security_policy = "default-src 'none'; frame-ancestors 'none'; sandbox"
      override                = true
    }

    referrer_policy {
      referrer_policy = "no-referrer"
      override        = true
    }

    strict_transport_security {
      access_control_max_age_sec = 31536000
      override                   = true
    }
  }
}

resource "aws_cloudfront_function" "public_photo" {
  name    = "${var.name}-public-photo"
  runtime = "cloudfront-js-2.0"
  code    = file("${path.module}/functions/public-photo.js")
}

resource "aws_cloudfront_function" "incoming_photo" {
  name    = "${var.name}-incoming-photo"
  runtime = "cloudfront-js-2.0"
  code = templatefile("${path.module}/functions/incoming-photo.js.tftpl", {
    reader_secret_sha256 = var.cdn_reader_secret_sha256
  })
}

# Signed URLs for image_url: off until a key is given, because growbin does not sign yet (README).
resource "aws_cloudfront_public_key" "image_url" {
  count       = var.image_url_public_key == null ? 0 : 1
  name_prefix = "${var.name}-image-url-"
  encoded_key = var.image_url_public_key

  # A key in use cannot be deleted: the group must have its successor first.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_key_group" "image_url" {
  count = var.image_url_public_key == null ? 0 : 1
  name  = "${var.name}-image-url"
  items = aws_cloudfront_public_key.image_url[*].id
}
