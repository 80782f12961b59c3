output "cloudfront_distribution_id" {
  description = "CLOUDFRONT_DISTRIBUTION_ID of growbin."
  value       = aws_cloudfront_distribution.photos.id
}

output "cloudfront_domain_name" {
  description = "CloudFront's own name of the distribution, behind cdn_domain_name."
  value       = aws_cloudfront_distribution.photos.domain_name
}

output "cdn_images_url" {
  description = "CDN_BASE_URL of growbin: image_url begins with it."
  value       = "https://${var.cdn_domain_name}"
}

output "bucket_name" {
  description = "S3_BUCKET_NAME of growbin."
  value       = aws_s3_bucket.photos.bucket
}

output "role_arns" {
  description = "For the annotation eks.amazonaws.com/role-arn of each service account."
  value       = { for process, role in aws_iam_role.process : process => role.arn }
}

output "settings" {
  description = "Environment of gateway and consumer, by the names of growbin's settings. CDN_READER_SECRET is not here: it is a secret."
  value = {
    AWS_REGION                 = var.aws_region
    S3_BUCKET_NAME             = aws_s3_bucket.photos.bucket
    CDN_ENABLED                = "true"
    CDN_BASE_URL               = "https://${var.cdn_domain_name}"
    CDN_CACHE_TTL              = tostring(aws_cloudfront_cache_policy.public_photos.default_ttl)
    CLOUDFRONT_DISTRIBUTION_ID = aws_cloudfront_distribution.photos.id
  }
}
