variable "name" {
  description = "Prefix of everything that has a name, so that two installations fit into one account."
  type        = string
  default     = "growbin"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "name must have 2 to 31 characters: a small letter, then small letters, digits or hyphens."
  }
}

variable "tags" {
  description = "Tags of every resource, besides Application and ManagedBy."
  type        = map(string)
  default     = {}
}

variable "aws_region" {
  description = "Region of the bucket; AWS_REGION of growbin."
  type        = string
  default     = "ap-northeast-2"
}

variable "bucket_name" {
  description = "The private bucket, unique in the world; S3_BUCKET_NAME of growbin."
  type        = string
}

variable "allowed_origins" {
  description = "Origins of the pages that upload photos, as browsers write them; ALLOWED_ORIGINS of growbin plus the page's own."
  type        = list(string)

  validation {
    condition = length(var.allowed_origins) > 0 && alltrue([
      for origin in var.allowed_origins : can(regex("^https://[a-z0-9.-]+(:[0-9]+)?$", origin))
    ])
    error_message = "allowed_origins must list at least one origin like https://growbin.example: no path, no wildcard."
  }
}

variable "cdn_domain_name" {
  description = "Public name of the photos, in the zone below; CDN_BASE_URL of growbin is https:// and this."
  type        = string
}

variable "dns_zone_name" {
  description = "Public Route 53 zone, already there, in which cdn_domain_name lies."
  type        = string
}

# The secret itself never comes near Terraform: only its digest stands in the function, the plan and the state.
variable "cdn_reader_secret_sha256" {
  description = "SHA-256 of CDN_READER_SECRET in small hexadecimal digits; two while one secret replaces another."
  type        = list(string)

  validation {
    condition = contains([1, 2], length(var.cdn_reader_secret_sha256)) && alltrue([
      for digest in var.cdn_reader_secret_sha256 : can(regex("^[0-9a-f]{64}$", digest)) && digest != sha256("")
    ])
    error_message = "cdn_reader_secret_sha256 must hold one or two SHA-256 digests of 64 small hexadecimal digits, none of them that of an empty secret."
  }
}

variable "eks_cluster_name" {
  description = "EKS cluster whose Pod Identity agent brings the roles; null where they are worn through oidc_provider_arn."
  type        = string
  default     = null
}

variable "oidc_provider_arn" {
  description = "IAM OIDC provider of the cluster, arn:aws:iam::ACCOUNT:oidc-provider/ISSUER; null with Pod Identity."
  type        = string
  default     = null

  validation {
    condition     = var.oidc_provider_arn == null ? true : can(regex("^arn:aws:iam::[0-9]{12}:oidc-provider/.+$", var.oidc_provider_arn))
    error_message = "oidc_provider_arn must look like arn:aws:iam::123456789012:oidc-provider/ISSUER."
  }

  validation {
    condition     = (var.oidc_provider_arn == null) != (var.eks_cluster_name == null)
    error_message = "oidc_provider_arn or eks_cluster_name must be given, and not both."
  }
}

variable "kubernetes_namespace" {
  description = "Namespace of both service accounts."
  type        = string
  default     = "growbin"
}

variable "gateway_service_account" {
  description = "Service account of the gateway."
  type        = string
  default     = "gateway"
}

variable "consumer_service_account" {
  description = "Service account of the consumer."
  type        = string
  default     = "consumer"
}

variable "alarm_email" {
  description = "Who is told of alarms; the address must confirm once."
  type        = string
}

variable "monthly_cost_limit_usd" {
  description = "Budget of CloudFront and S3 together for a month, account-wide: a mail when it will not do, and at 80 % of it."
  type        = number
  default     = 50
}

variable "image_url_public_key" {
  description = "PEM public key; with it CloudFront serves public photos by signed URL only. growbin does not sign: leave it null (README)."
  type        = string
  default     = null
}
