# One role for each process, worn by its service account: by EKS Pod Identity where eks_cluster_name is given, else
# through the cluster's OIDC provider (IRSA).
locals {
  uses_pod_identity = var.eks_cluster_name != null
  oidc_issuer       = local.uses_pod_identity ? "" : split("oidc-provider/", var.oidc_provider_arn)[1]

  service_accounts = {
    gateway  = var.gateway_service_account
    consumer = var.consumer_service_account
  }

  raw_photos = "${aws_s3_bucket.photos.arn}/incoming/*"

  # A job's id is a UUID. In `incoming/...` the ninth character is no hyphen, so these never name a raw photo.
  public_photos = [
    for extension in ["jpg", "png", "webp"] :
    "${aws_s3_bucket.photos.arn}/????????-????-????-????-????????????.${extension}"
  ]
}

resource "aws_iam_role" "process" {
  for_each = local.service_accounts

  name               = "${var.name}-${each.key}"
  assume_role_policy = local.uses_pod_identity ? data.aws_iam_policy_document.worn_by_pod[each.key].json : data.aws_iam_policy_document.worn_by[each.key].json
}

resource "aws_eks_pod_identity_association" "process" {
  for_each = local.uses_pod_identity ? local.service_accounts : {}

  cluster_name    = var.eks_cluster_name
  namespace       = var.kubernetes_namespace
  service_account = each.value
  role_arn        = aws_iam_role.process[each.key].arn
}

data "aws_iam_policy_document" "worn_by_pod" {
  for_each = local.uses_pod_identity ? local.service_accounts : {}

  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/eks-cluster-name"
      values   = [var.eks_cluster_name]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-namespace"
      values   = [var.kubernetes_namespace]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-service-account"
      values   = [each.value]
    }
  }
}

data "aws_iam_policy_document" "worn_by" {
  for_each = local.uses_pod_identity ? {} : local.service_accounts

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.kubernetes_namespace}:${each.value}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "gateway" {
  name   = "photos"
  role   = aws_iam_role.process["gateway"].id
  policy = data.aws_iam_policy_document.gateway.json
}

data "aws_iam_policy_document" "gateway" {
  # A ticket carries the gateway's right to write; a look at what arrived reads its first bytes.
  statement {
    sid       = "TicketsAndLooks"
    actions   = ["s3:PutObject", "s3:GetObject"]
    resources = [local.raw_photos]
  }

  # What cannot be taken, and what its owner deletes: both copies, and the CDN's.
  statement {
    sid       = "Deletes"
    actions   = ["s3:DeleteObject"]
    resources = concat([local.raw_photos], local.public_photos)
  }

  statement {
    sid       = "MakesTheCdnForget"
    actions   = ["cloudfront:CreateInvalidation"]
    resources = [aws_cloudfront_distribution.photos.arn]
  }

  # S3 tells "not there" from "forbidden" only to who may list. A deletion asks what lies there of a job.
  statement {
    sid       = "LearnsWhatIsMissing"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.photos.arn]
  }
}

resource "aws_iam_role_policy" "consumer" {
  name   = "photos"
  role   = aws_iam_role.process["consumer"].id
  policy = data.aws_iam_policy_document.consumer.json
}

data "aws_iam_policy_document" "consumer" {
  # The way back to the raw photo when the CDN fails.
  statement {
    sid       = "ReadsRawPhotos"
    actions   = ["s3:GetObject"]
    resources = [local.raw_photos]
  }

  # It shows the clean copy, and takes it back when the job was cancelled meanwhile.
  statement {
    sid       = "ShowsCleanPhotos"
    actions   = ["s3:PutObject", "s3:DeleteObject"]
    resources = local.public_photos
  }

  # S3 tells "not there" from "forbidden" only to who may list.
  statement {
    sid       = "LearnsWhatIsMissing"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.photos.arn]
  }
}
